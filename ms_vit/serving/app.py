"""What is served: the page, POST /predict, GET /health."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ms_vit import __version__, limits
from ms_vit.errors import DataError
from ms_vit.inference.predictor import Predictor
from ms_vit.serving.attention import Attention
from ms_vit.serving.batching import TYPES, Batches, UnknownType
from ms_vit.serving.bodies import Bodies

PAGE = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css"),
        "/page.js": ("page.js", "text/javascript")}
HEADERS = {
    # The page asks nobody but us, nobody frames it, and what a stranger names a class is no code of it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src "
                               "blob: data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class App:
    """Answers requests by a predictor, which is called `name` in /health; `top_k` classes where none asks otherwise."""

    def __init__(self, predictor: Predictor, *, name: str, top_k: int, model: str | None = None):
        self.predictor = predictor
        self.name = name
        self.top_k = top_k
        self.bodies = Bodies()
        self.batches = Batches(predictor)
        self.attention = Attention(predictor, model)

    def application(self, hosts: Sequence[str]) -> Starlette:
        """The ASGI application, for requests that name one of `hosts` as whom they ask ("*" for all)."""
        return Starlette(
            routes=[*(Route(path, page(*file)) for path, file in PAGE.items()),
                    Route("/predict", self.predict, methods=["POST"]),
                    Route("/health", self.health)],
            # A page of another site whose name leads here could read our answers else (DNS rebinding).
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)],
            exception_handlers={HTTPException: told, Exception: failed},
            lifespan=self.lifespan)

    @contextlib.asynccontextmanager
    async def lifespan(self, application: Starlette) -> AsyncIterator[None]:
        async with self.batches.running():
            yield

    async def health(self, request: Request) -> Response:
        """What is asked, and how much there is to do."""
        spec = self.predictor.spec
        return JSONResponse({
            "status": "ok", "version": __version__, "model": self.name,
            "classes": spec.config.num_classes, "image_size": spec.preprocessing.sides,
            "batch_size": self.predictor.batch_size, "top_k": self.top_k, "types": TYPES,
            "attention": not self.attention.missing,
            "max_bytes": limits.MAX_BODY_BYTES, "max_images": limits.MAX_UPLOADS,
            "under_way": self.bodies.requests, "answered": self.batches.answered})

    async def predict(self, request: Request) -> Response:
        """{"answers": [...]}, for each picture a line of predictions.jsonl, with "attention" where that is asked."""
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise HTTPException(403, "a page of another site asks")     # by a browser, which says so
        top_k = whole(request.query_params.get("top_k", str(self.top_k)), "top_k")
        attention = self.attention if request.query_params.get("attention", "0") != "0" else None
        if attention and attention.missing:
            raise HTTPException(400, attention.missing)
        try:
            async with self.bodies.pictures(request) as pictures:
                found = await asyncio.gather(*(self.batches(file, name, attention) for name, file in pictures),
                                             return_exceptions=True)     # their files are open until all are done
        except ClientDisconnect:
            return Response(status_code=400)        # which nobody hears
        answers = []
        for (name, _), each in zip(pictures, found, strict=True):
            if isinstance(each, DataError):
                raise HTTPException(415 if isinstance(each, UnknownType) else 422, str(each)) from each
            if isinstance(each, BaseException):
                raise each
            logits, drawn = each
            predictions = [asdict(prediction) for prediction in self.predictor.top(logits, top_k)]
            answers.append({"image": name, "predictions": predictions} | ({"attention": drawn} if drawn else {}))
        return JSONResponse({"answers": answers})


def whole(text: str, name: str) -> int:
    """A number above 0. Raises HTTPException where the text is none."""
    if not (text.isascii() and text.isdecimal() and int(text[:9]) > 0):
        raise HTTPException(400, f"{name} must be a whole number from 1, not {text[:20]!r}")
    return int(text[:9])


def page(file: str, kind: str) -> Any:
    """An endpoint that gives a file of the page."""
    content = (Path(__file__).parent / "page" / file).read_bytes()

    async def endpoint(request: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)
    return endpoint


async def told(request: Request, error: Exception) -> Response:
    """A refusal, with its reason."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def failed(request: Request, error: Exception) -> Response:
    """Nobody's fault but ours; the reason is in the server's log."""
    return JSONResponse({"error": "the server failed; its log says why"}, 500)
