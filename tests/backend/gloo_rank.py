"""Do every collective as one of two ranks and print what came out. Arguments: rank, rendezvous."""

import json
import sys

import torch

from quire.backend.defaults import create_communicator

rank, rendezvous = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
communicator = create_communicator([0, 1])
mine = torch.tensor([[1.0, 2.0]]) * (rank + 1)
found = [
    communicator.all_reduce(mine),
    communicator.all_gather(mine, dim=1),
    communicator.reduce_scatter(mine, dim=1),
    communicator.broadcast(mine, source=1),
]
communicator.barrier()
print(json.dumps([tensor.tolist() for tensor in found]))
communicator.close()
torch.distributed.destroy_process_group()
