"""Do every collective as one of two ranks and print what came out. Arguments: rank, rendezvous."""

import json
import sys

import torch

from quire.backend.accelerator.collectives import DeviceCommunicator

rank, rendezvous = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
communicator = DeviceCommunicator([0, 1], None, "gloo")
mine = torch.arange(4.0).view(2, 2) * (rank + 1)
found = [
    communicator.all_gather(mine, dim=1),
    communicator.reduce_scatter(mine, dim=1),
    communicator.broadcast(given := mine + rank, source=1),
    communicator.all_reduce(mine),
    given - rank,
    mine,
]
communicator.barrier()
print(json.dumps([tensor.tolist() for tensor in found]))
communicator.close()
torch.distributed.destroy_process_group()
