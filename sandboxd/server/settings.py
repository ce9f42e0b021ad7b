"""The parts of the configuration that the pool, the front and the HTTP server take, in the types of each of them."""

from sandboxd import __version__
from sandboxd.config import Config, may_poll
from sandboxd.front.ports import FrontSettings, Pace
from sandboxd.front.servers.connections import CallerLimits
from sandboxd.front.servers.serving import HttpServerSettings
from sandboxd.pool.settings import PoolSettings


def pool_settings(config: Config) -> PoolSettings:
    """Return the settings of the pool."""
    return PoolSettings(
        workers=config.pool.workers,
        queue_limit=config.pool.queue_limit,
        queue_timeout_s=config.pool.queue_timeout_ms / 1000,
        load_timeout_s=config.pool.load_timeout_ms / 1000,
        look_ahead=config.pool.look_ahead,
        recycle_after=config.pool.recycle_after,
        polling=config.pool.polling and may_poll(),
        max_binding_share=config.pool.max_binding_share / 100,
        warm_memory_bytes=config.pool.warm_memory_bytes,
    )


def front_settings(config: Config) -> FrontSettings:
    """Return the settings of the front's HTTP application."""
    return FrontSettings(
        version=__version__,
        app_id=config.app_id,
        api_token=config.api_token,
        allowed_origins=config.listen.allowed_origins,
        dapr_only=config.listen.dapr_only,
        max_body_bytes=config.listen.max_body_bytes,
        pace=Pace(config.listen.body_timeout_ms / 1000, config.listen.min_rate),
        wall=config.pool.wall,
    )


def caller_limits(config: Config) -> CallerLimits:
    """Return the limits of the connections from callers."""
    return CallerLimits(
        head_timeout_s=config.listen.header_timeout_ms / 1000,
        body_timeout_s=config.listen.body_timeout_ms / 1000,
        send_timeout_s=config.listen.send_timeout_ms / 1000,
        min_rate=config.listen.min_rate,
        max_connections=config.listen.max_connections,
        max_per_peer=config.listen.max_peer_connections,
        max_unread_bytes=config.listen.max_unread_bytes,
    )


def http_server_settings(config: Config, callers: CallerLimits) -> HttpServerSettings:
    """Return the settings of the HTTP server, uvicorn or Hypercorn."""
    return HttpServerSettings(
        kind=config.engine.kind,
        http2=config.engine.http2,
        tls_certificate=config.engine.tls_certificate,
        tls_key=config.engine.tls_key,
        max_header_bytes=config.listen.max_header_bytes,
        callers=callers,
    )
