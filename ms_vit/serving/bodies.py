"""What a request brings: pictures, bounded while they come in."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from typing import BinaryIO

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from ms_vit import limits
from ms_vit.errors import one_line

FORM, IMAGE = "multipart/form-data", "image/"
HOW = f'send a form ({FORM}) with pictures under "image", or a picture with its type (Content-Type: image/jpeg)'
Picture = tuple[str, BinaryIO]      # what it is called, and its file


class Bodies:
    """The requests under way: how many, and the bytes that all of them have brought. None is read past a limit."""

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0

    @contextlib.asynccontextmanager
    async def pictures(self, request: Request) -> AsyncIterator[list[Picture]]:
        """A request's pictures, there inside.

        Raises HTTPException: 400 where there is none, 408 where they are slow, 413 where they are too large, 415 where
        they come in no way that is known, 503 where there is too much at once.
        """
        if self.requests >= limits.MAX_REQUESTS:
            raise busy()
        body = Body(self, request)
        self.requests += 1
        try:
            try:
                found = await asyncio.wait_for(body.pictures(), limits.MAX_REQUEST_SECONDS)
            except asyncio.TimeoutError as error:
                raise HTTPException(408, f"the request didn't come within {limits.MAX_REQUEST_SECONDS} s") from error
            if not found:
                raise HTTPException(400, f"no image; {HOW}")
            yield found
        finally:
            self.requests -= 1
            self.bytes -= body.bytes
            await body.request.close()


class Body:
    """One request's body; `bytes` have come of it."""

    def __init__(self, all: Bodies, request: Request):
        self.all = all
        self.source = request.receive
        self.request = Request(request.scope, self.receive)
        self.bytes = 0

    async def receive(self) -> Message:
        """The next piece. Raises HTTPException where it is one too many."""
        message = await self.source()
        size = len(message.get("body", b""))
        self.bytes += size
        self.all.bytes += size
        if self.bytes > limits.MAX_BODY_BYTES:
            raise too_large()
        if self.all.bytes > limits.MAX_BODIES_BYTES:
            raise busy()
        return message

    async def pictures(self) -> list[Picture]:
        """All that it brings. Raises HTTPException as Bodies.pictures."""
        headers = self.request.headers
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > limits.MAX_BODY_BYTES:
            raise too_large()
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind.startswith(IMAGE):
            content = await self.request.body()
            return [("the picture", io.BytesIO(content))] if content else []
        if kind == FORM:
            return await self.form()
        raise HTTPException(415, HOW)

    async def form(self) -> list[Picture]:
        """The files of a form's "image"; the larger ones lie on the disk. Raises HTTPException."""
        try:
            form = await self.request.form(max_files=limits.MAX_UPLOADS, max_fields=limits.MAX_FIELDS,
                                           max_part_size=limits.MAX_FIELD_BYTES)
        except ValueError as error:     # of the character set that it claims
            raise HTTPException(400, "the form can't be read") from error
        # A browser sends a file without a name, and with nothing in it, where none was chosen.
        return [(one_line(given.filename or "the picture"), given.file) for given in form.getlist("image")
                if isinstance(given, UploadFile) and (given.size or given.filename)]


def busy() -> HTTPException:
    return HTTPException(503, "too much at once; come again in a second", {"Retry-After": "1"})


def too_large() -> HTTPException:
    return HTTPException(413, f"a request may have {limits.MAX_BODY_BYTES:,} bytes, this one has more")
