// Calls functions of a libquire_VARIANT.so for ppc64le in an emulated process, on the memory of the process that asks.
//
//   driver LIBRARY MEMORY_FD
//
// A call on stdin is 80 bytes: what it returns (8 bytes: 'q' an integer, 'd' a double, 's' a string; 'a' is the
// function's own address, and no call), 8 arguments of 8 bytes, and the length of the name that follows. Pointers are addresses of the asking process: pages are fetched from
// MEMORY_FD, its /proc/self/mem, when they are first touched, to the same addresses here; what was written goes back
// before the answer: 8 bytes of result, or of the length of a string that follows. Errors end the process.
#include <dlfcn.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr uintptr_t kPage = 4096;
constexpr uintptr_t kAhead = 64 * kPage;  // fetched together, as far as there is memory
constexpr size_t kMaxPages = size_t{1} << 20;

struct Page {
  char* here;
  char* before;     // as it was fetched, once it is written
  uint32_t* place;  // in `places`
};

int memory_fd;
std::atomic_flag busy = ATOMIC_FLAG_INIT;

// Pages by address, without allocating: a fault may come in the middle of malloc.
Page pages[kMaxPages];
size_t num_pages;
uint32_t places[2 * kMaxPages];  // index into pages, plus one; by open addressing

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  _exit(3);
}

uint32_t& place_of(const char* address) {
  size_t at = reinterpret_cast<uintptr_t>(address) / kPage * 0x9E3779B97F4A7C15u >> 43;
  while (places[at] && pages[places[at] - 1].here != address) at = (at + 1) % (2 * kMaxPages);
  return places[at];
}

Page* find(const char* address) {
  const uint32_t place = place_of(address);
  return place ? &pages[place - 1] : nullptr;
}

void* map(void* at, uintptr_t size) {
  return mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

// Bring the page at `first` and those behind it; false where the asking process has none there. They are filled elsewhere
// and then moved, for another thread may be reading there: it faults until all is in place.
bool fetch(char* first) {
  uintptr_t want = kPage;
  while (want < kAhead && !find(first + want)) want += kPage;
  void* filled = map(nullptr, want);
  const ssize_t got = pread(memory_fd, filled, want, static_cast<off_t>(reinterpret_cast<uintptr_t>(first)));
  const uintptr_t size = got < 0 ? 0 : static_cast<uintptr_t>(got) / kPage * kPage;
  if (size < want) munmap(static_cast<char*>(filled) + size, want - size);
  if (size == 0) return false;
  mprotect(filled, size, PROT_READ);
  if (mmap(first, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != first)
    die("an address of the asking process is taken in this one; try again");
  if (mremap(filled, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, first) != first) die("cannot move pages");
  for (uintptr_t offset = 0; offset < size; offset += kPage) {
    if (num_pages == kMaxPages) die("one call touched too much memory");
    uint32_t& place = place_of(first + offset);
    pages[num_pages] = {first + offset, nullptr, &place};
    place = static_cast<uint32_t>(++num_pages);
  }
  return true;
}

// A page that is not here is fetched; one that is here was touched by a write.
void on_fault(int, siginfo_t* info, void*) {
  while (busy.test_and_set()) usleep(50);
  char* address = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(info->si_addr) & ~(kPage - 1));
  Page* page = find(address);
  if (page && !page->before) {
    page->before = static_cast<char*>(map(nullptr, kPage));
    std::memcpy(page->before, address, kPage);
    mprotect(address, kPage, PROT_READ | PROT_WRITE);
  } else if (!page && !fetch(address)) {
    std::fprintf(stderr, "touched %p, where the asking process has no memory\n", info->si_addr);
    _exit(4);
  }
  busy.clear();
}

// Write back the bytes of a page that differ.
void write_back(const Page& page) {
  for (uintptr_t i = 0; i < kPage; ++i) {
    uintptr_t end = i;
    while (end < kPage && page.here[end] != page.before[end]) ++end;
    const off_t at = static_cast<off_t>(reinterpret_cast<uintptr_t>(page.here) + i);
    const ssize_t size = static_cast<ssize_t>(end - i);
    if (size && pwrite(memory_fd, page.here + i, end - i, at) != size) die("cannot write to the asking process");
    i = end;
  }
}

void forget_pages() {
  for (size_t i = 0; i < num_pages; ++i) {
    if (pages[i].before) write_back(pages[i]), munmap(pages[i].before, kPage);
    munmap(pages[i].here, kPage);
    *pages[i].place = 0;
  }
  num_pages = 0;
}

struct Call {
  int64_t returns;
  int64_t a[8];
  int64_t name_length;
};

template <class R>
R call(void* function, const int64_t (&a)[8]) {
  using F = R (*)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);
  return reinterpret_cast<F>(function)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
}

void answer(const void* data, size_t size) { std::fwrite(data, 1, size, stdout); }

void serve(void* function, const Call& asked) {
  if (asked.returns == 'd') {
    const double result = call<double>(function, asked.a);
    answer(&result, sizeof(result));
  } else if (asked.returns == 's') {
    const char* text = call<const char*>(function, asked.a);
    const int64_t length = static_cast<int64_t>(std::strlen(text));
    answer(&length, sizeof(length));
    answer(text, std::strlen(text));
  } else if (asked.returns == 'a') {
    answer(&function, sizeof(function));
  } else {
    const int64_t result = call<int64_t>(function, asked.a);
    answer(&result, sizeof(result));
  }
  forget_pages();
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) die("usage: driver LIBRARY MEMORY_FD");
  dlopen("libgomp.so.1", RTLD_NOW | RTLD_GLOBAL);  // the libraries are not linked with one
  void* library = dlopen(argv[1], RTLD_NOW);
  if (!library) die(dlerror());
  memory_fd = std::atoi(argv[2]);
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, nullptr);
  for (Call asked; std::fread(&asked, sizeof(asked), 1, stdin) == 1;) {
    std::string name(static_cast<size_t>(asked.name_length), '\0');
    if (std::fread(&name[0], 1, name.size(), stdin) != name.size()) die("a call was cut short");
    void* function = dlsym(library, name.c_str());
    if (!function) die(dlerror());
    serve(function, asked);
  }
}
