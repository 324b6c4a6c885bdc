"""Big payloads and results outside of the job's record: `Offload`, and where it keeps them."""

from ropeway.offload.blobs import BlobStore, Directory
from ropeway.offload.offload import Offload

__all__ = ["BlobStore", "Directory", "Offload"]
