"""How a model is served."""

from pydantic import Field

from raydc.core.settings import Settings


class Serving(Settings):
    """A model behind an address."""

    model: str
    """models:/NAME@champion, models:/NAME/3, or a run's directory; of an alias, a later version is taken up too."""
    host: str = "127.0.0.1"
    """Address to listen at: this machine alone, or 0.0.0.0 for all that reach it, who then have to give a token."""
    port: int = Field(8000, ge=1, le=65535)
    """Port to listen at."""
    replicas: int = Field(1, ge=1)
    """Processes that hold the model and answer."""
    token_file: str | None = None
    """File with the token that requests have to give; else it is that of the environment's RAYDC_SERVE_TOKEN."""
    public: bool = False
    """Answer requests from beyond this machine that give no token."""
    name: str = Field("raydc", pattern=r"^[A-Za-z0-9._-]{1,128}$")
    """Name of the application on the Ray cluster, where there are several."""
    route: str = Field("/", pattern=r"^/[A-Za-z0-9._/-]*$")
    """Path before that of every request, where a cluster has several applications."""
    poll: float = Field(10.0, gt=0)
    """Seconds between two looks at the registry for another version."""
    request_bytes: int = Field(2**23, ge=1)
    """Bytes of a request at most; a larger one is refused with 413."""
    request_rows: int = Field(2**16, ge=1)
    """Rows of a request at most, as above."""
    waiting: int = Field(256, ge=1)
    """Requests that are in hand at the same time at most; one more is sent away with 429."""
    waiting_bytes: int = Field(2**27, ge=1)
    """Bytes of requests in hand at most, as above."""
    timeout: float = Field(60.0, gt=0)
    """Seconds for an answer; then it is 503. A replica in the place of one that died has to start within them."""
    drain: float = Field(20.0, ge=0)
    """Seconds at the end, or before a process is replaced, for requests that are in hand."""
    allow_code: tuple[str, ...] = ()
    """Full names of methods from elsewhere whose code models may have run."""
    tracking_uri: str | None = None
    """MLflow's store; by default as MLflow finds it."""
