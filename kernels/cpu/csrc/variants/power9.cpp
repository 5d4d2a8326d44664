#include "../c_api.h"
