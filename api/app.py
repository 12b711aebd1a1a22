"""The application's factory: middleware, routes and error handlers around one model and its scheduler."""

from fastapi import FastAPI
from starlette.middleware import Middleware

from ..engine.served_model import ServedModel
from .config import KeepAlive, ServerConfig
from .errors import add_error_handlers
from .formats.model_format import build_model_format
from .grammar.constraint_factory import open_constraint_factory
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
from .protocols import SchedulerInterface, Tokenizer
from .services import Services


def create_app(
    config: ServerConfig,
    model: ServedModel,
    tokenizer: Tokenizer,
    scheduler: SchedulerInterface,
    keep_alive: KeepAlive = KeepAlive(),  # noqa: B008  (frozen)
) -> FastAPI:
    """Build the application: read the tokenizer's vocabulary and probe its template. Starts nothing.

    Raises TemplateTooSlow.
    """
    template = ChatTemplate(tokenizer)
    model_format = build_model_format(tokenizer, template.features.native_tools)
    services = Services(
        model=model,
        model_format=model_format,
        scheduler=scheduler,
        prompts=PromptBuilder(model, tokenizer, template, model_format, config.images),
        constraint_factory=open_constraint_factory(model_format, model.eos_token_ids),
        metrics=Metrics(model, scheduler.stats),
        thinking=config.thinking,
        keep_alive=keep_alive,
    )
    guards = [
        Middleware(CrossOrigin, origins=AllowedOrigins(config.allow_origin)),
        Middleware(RequestContext, metrics=services.metrics),
        Middleware(Guard, config=config),
        Middleware(BodyLimit),
    ]
    app = FastAPI(openapi_url=None, redirect_slashes=False, middleware=guards)
    app.state.constraint_factory = services.constraint_factory
    add_error_handlers(app, services.metrics.rejected)
    kinds = (MessagesApi, OpenAIApi, ResponsesApi, ModelsApi, HealthApi)
    for api in (kind(services) for kind in kinds):
        app.include_router(api.router())
    return app
