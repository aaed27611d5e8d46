"""FSDP2 as a strategy of Lightning's: one model over several processes."""

from lightning.pytorch.strategies import ModelParallelStrategy

from lightning_unlearn.errors import InputError


class FSDP2(ModelParallelStrategy):
    """Fully sharded data parallelism: every process holds a part of every layer.

    Args:
        data_parallel_size: processes that share a model; null takes all of them.
        cpu_offload: keep the parts in the computer's own memory while they are not needed. Saves
            GPU memory, costs time.
        layers: names of the classes of decoder layers; null finds them.
    """

    def __init__(
        self,
        data_parallel_size: int | None = None,
        cpu_offload: bool = False,
        layers: list[str] | None = None,
    ) -> None:
        super().__init__(data_parallel_size or 1, 1)
        self.asked = data_parallel_size
        self.cpu_offload = cpu_offload
        self.layers = layers

    def setup_environment(self) -> None:
        """Connect the processes, and lay them out as a mesh.

        Raises:
            InputError: if there are other processes than asked for.
        """
        if self.asked is not None and self.asked != self.world_size:
            raise InputError(
                f"trainer.strategy: found data_parallel_size {self.asked} with {self.world_size} "
                "processes (trainer.devices x trainer.num_nodes), expected as many, or null."
            )
        self._data_parallel_size = self.world_size
        if self._device_mesh is None:
            super().setup_environment()
            return
        # Lightning asks again at every fit; the processes are connected already.
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh
