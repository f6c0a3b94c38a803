"""Where many owls run: a Ray cluster that is there already, or one of this machine alone; and replicas on it.

What Ray Serve does - to start and replace replicas, to look after their health, to add and remove them with the load -
is left to it; its options are handed through by name. How a request finds its replica stands in `door.py`.
"""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mplug_owl.errors import ConfigError, did_you_mean
from mplug_owl.settings import apply_override

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from mplug_owl.serve.options import ServeOptions
    from mplug_owl.serve.replica import Opening

INSTALL = 'pip install "mplug_owl[cluster]"'
APPLICATION = "owl"  # the name on the cluster, under which a second door finds the replicas
ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
OBJECT_STORE = 256 * 2**20  # bytes; of a cluster of our own, where only requests pass through it

RAY_OPTIONS = (
    *("autoscaling_config", "graceful_shutdown_timeout_s", "graceful_shutdown_wait_loop_s", "health_check_period_s"),
    *("health_check_timeout_s", "max_constructor_retry_count", "max_ongoing_requests", "max_queued_requests"),
    *("max_replicas_per_node", "max_surge_percent", "ray_actor_options", "request_router_config"),
    "rolling_update_percentage",
)
"""What of Ray Serve's deployments may be set by name."""


@dataclass(frozen=True)
class Place:
    """A cluster, and what of it is taken."""

    address: str = "local"
    """"local": this machine alone, as long as the command runs; "auto" or HOST:PORT: a cluster it is part of."""
    replicas: int = 1
    autoscale: tuple[int, int] | None = None
    """The fewest and the most replicas, where Ray decides; `replicas` is then of no meaning."""
    cpus: float = 1.0
    """Cores of each replica; so for GPUs."""
    gpus: float = 0.0

    def __post_init__(self) -> None:
        few, many = self.autoscale or (self.replicas, self.replicas)
        if not 1 <= few <= many:
            raise ConfigError(f"{few} to {many} replicas; expected 1 or more, and the fewer first")
        if self.cpus < 0 or self.gpus < 0:
            raise ConfigError(f"cpus={self.cpus} and gpus={self.gpus} of a replica; expected no less than 0")
        if self.address.startswith("ray://"):
            raise ConfigError(
                f"address {self.address!r}: Ray's client cannot stream answers; run the command on a machine of the "
                "cluster, with auto or HOST:PORT"
            )

    @classmethod
    def of(cls, address: str, replicas: str | None, cpus: float | None, gpus: float | None) -> "Place":
        """The words of a command line: `replicas` is N or MIN:MAX.

        Raises: ConfigError.
        """
        few, colon, many = (replicas or "1").partition(":")
        if not few.isdecimal() or (colon and not many.isdecimal()):
            raise ConfigError(f"replicas {replicas!r}; expected a number, or MIN:MAX")
        span = (int(few), int(many)) if colon else None
        return cls(address, int(few), span, 1.0 if cpus is None else cpus, 0.0 if gpus is None else gpus)

    @property
    def most(self) -> int:
        return self.autoscale[1] if self.autoscale else self.replicas


def connect(place: Place) -> None:
    """Join the cluster, or start one.

    Raises: ConfigError where Ray is not installed, or no cluster is there.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError(f"Ray is not installed; {INSTALL}") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what people ask their owls is nobody's statistics
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as it will be the default; else Ray warns
    settings: dict[str, Any] = {"namespace": APPLICATION, "log_to_driver": False, "logging_level": "ERROR"}
    if place.address == "local":
        # The owls are what such a cluster is for; Ray would let everything else on the machine go first.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # More replicas than cores are slower each, but that is for whoever asks for them to say.
        settings["num_cpus"] = max(os.cpu_count() or 1, math.ceil(place.most * place.cpus))
        settings |= {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
    try:
        ray.init(place.address, **settings)
    except Exception as error:  # Ray raises bare Exception where its processes do not come up in time
        raise ConfigError(f"no Ray cluster at {place.address!r} ({str(error).splitlines()[0]})") from error


def disconnect() -> None:
    """Leave the cluster; one of our own ends."""
    import ray

    ray.shutdown()


def deployment(
    place: Place, opening: "Opening", options: "ServeOptions", overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """The options of Ray Serve's deployment; `overrides` are `name=value`, dotted where a name lies in another.

    Raises: ConfigError for a name that is not Ray's.
    """
    slots = opening.engine.slots
    found: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": place.cpus, "num_gpus": place.gpus},
        # A replica takes in as many as it can answer at once. More go to the next one, then they wait in front.
        "max_ongoing_requests": slots,
        "max_queued_requests": opening.engine.queue,
        "graceful_shutdown_timeout_s": options.drain,
        "max_constructor_retry_count": 3,
        "request_router_config": {"request_router_class": ROUTER},
    }
    if place.autoscale:
        few, many = place.autoscale
        # Half full is where waiting for slots begins to show when chats come in bunches.
        scale = {"min_replicas": few, "max_replicas": many, "target_ongoing_requests": max(1, slots // 2)}
        found["autoscaling_config"] = scale
    else:
        found["num_replicas"] = place.replicas
    for override in overrides:
        name = override.partition("=")[0].partition(".")[0]
        if name not in RAY_OPTIONS:
            raise ConfigError(f"unknown option {name!r} of Ray Serve{did_you_mean(name, RAY_OPTIONS)}")
        apply_override(found, override)
    return found


def deploy(settings: Mapping[str, Any], opening: "Opening", options: "ServeOptions") -> "DeploymentHandle[Any]":
    """Start the replicas, or replace those that run one after the other; returns when they answer.

    Raises: ConfigError where they do not come up.
    """
    from ray import serve

    from mplug_owl.serve.replica import Replica

    quieten()
    serve.start(proxy_location="Disabled")  # the door is ours
    gpus = settings["ray_actor_options"].get("num_gpus", 0.0)
    made = serve.deployment(Replica, name=APPLICATION, **settings)
    try:
        return serve.run(made.bind(opening, options, gpus), name=APPLICATION, route_prefix=None)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"the replicas do not start: {last_line(str(error))}") from error


def running() -> "DeploymentHandle[Any]":
    """The replicas that run on the cluster already.

    Raises: ConfigError where there are none.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException

    quieten()
    try:
        return serve.get_app_handle(APPLICATION)
    except RayServeException:
        raise ConfigError("no owls run on the cluster; start them with --replicas N") from None


def quieten() -> None:
    """Ray's own log goes to its files; who looks at a terminal sees what the command says."""
    for name in ("ray.serve", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"
