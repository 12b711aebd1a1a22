"""The application's factory: middleware, routes and error handlers around one model and its scheduler."""

import logging
import shlex

from fastapi import FastAPI
from starlette.middleware import Middleware

from ..engine.served_model import ServedModel
from .api_keys import ApiKeys
from .config import KeepAlive, ServerConfig
from .errors import add_error_handlers
from .formats.model_format import build_model_format
from .grammar.constraint_factory import ConstraintFactory, open_constraint_factory
from .health import HealthApi
from .messages import MessagesApi
from .metrics import Metrics
from .middleware import BodyLimit, Guard, RequestContext
from .models import ModelsApi
from .openai.responses.responses_api import ResponsesApi
from .openai.routes import OpenAIApi
from .origins import AllowedOrigins, CrossOrigin
from .prompt.prompt import PromptBuilder
from .prompt.template import ChatTemplate
from .prompt.template_probes import PROBE_TOOL
from .protocols import SchedulerInterface, Tokenizer
from .queue_gate import PlaceHolder, QueueGate
from .reports.request_log import RequestLog
from .request_routes import RequestsApi
from .schema import Tool
from .services import Services
from .session_routes import SessionsApi
from .status.status_api import StatusApi
from .twins import Twins
from .web_search import SearchCommand

logger = logging.getLogger(__name__)


def create_app(
    config: ServerConfig,
    model: ServedModel,
    tokenizer: Tokenizer,
    scheduler: SchedulerInterface,
    keep_alive: KeepAlive = KeepAlive(),  # noqa: B008  (frozen)
) -> FastAPI:
    """Build the application: read the tokenizer's vocabulary and probe its template. Starts nothing.

    Raises TemplateTooSlow, BrokenTemplate or KeysFileError.
    """
    template = ChatTemplate(tokenizer)
    model_format = build_model_format(tokenizer, template.tool_format)
    constraint_factory = open_constraint_factory(model_format, model.eos_token_ids)
    if constraint_factory is not None and template.call_text:
        _check_calls(constraint_factory, template.call_text, tokenizer)
    metrics = Metrics(model, scheduler.stats, config.metrics_names)
    services = Services(
        model=model,
        model_format=model_format,
        scheduler=scheduler,
        prompts=PromptBuilder(model, tokenizer, template, model_format, config),
        constraint_factory=constraint_factory,
        abilities=template.abilities,
        metrics=metrics,
        search=SearchCommand(shlex.split(config.search_command)) if config.search_command else None,
        thinking=config.thinking,
        keep_alive=keep_alive,
        requests=RequestLog(),
        twins=Twins(metrics),
    )
    keys = ApiKeys(config, services.metrics.forget_keys)
    gate = QueueGate(scheduler, metrics, services.twins)
    guards = [
        Middleware(CrossOrigin, origins=AllowedOrigins(config.allow_origin)),
        Middleware(RequestContext, metrics=services.metrics),
        Middleware(Guard, config=config, keys=keys),
        Middleware(BodyLimit),
        Middleware(PlaceHolder, gate=gate),
    ]
    app = FastAPI(openapi_url=None, redirect_slashes=False, middleware=guards)
    app.state.keys = keys
    app.state.queue_gate = gate
    app.state.constraint_factory = services.constraint_factory
    app.state.abilities = template.abilities
    add_error_handlers(app, services.metrics.rejected)
    kinds = (MessagesApi, OpenAIApi, ResponsesApi, RequestsApi, SessionsApi, StatusApi, ModelsApi, HealthApi)
    for api in (kind(services) for kind in kinds):
        app.include_router(api.router())
    return app


def _check_calls(constraint_factory: ConstraintFactory, call: str, tokenizer: Tokenizer) -> None:
    """Leave calls free if their grammar refuses a call as the template writes it, and so the model."""
    function = PROBE_TOOL["function"]
    tool = Tool(name=function["name"], input_schema=function["parameters"])
    if not constraint_factory.allows(call, tool, tokenizer):
        logger.warning("the grammar of calls refuses the template's own call: calls are not constrained")
        constraint_factory.leave_calls_free()
