"""A service on the bus: answers Tell, through libsystemd's sd-bus(3)."""

from __future__ import annotations

import ctypes

NAME = b"org.orbital.Teller1"
ANSWER = b"the teller was here"

_sd = ctypes.CDLL("libsystemd.so.0", use_errno=True)


def _checked(code: int) -> int:
    if code < 0:
        raise OSError(-code, "cannot talk to the bus")
    return code


def main() -> None:
    """Answers until it is ended."""
    bus = ctypes.c_void_p()
    _checked(_sd.sd_bus_open_system(ctypes.byref(bus)))
    _checked(_sd.sd_bus_request_name(bus, NAME, ctypes.c_uint64(0)))
    message = ctypes.c_void_p()
    while True:
        if _checked(_sd.sd_bus_process(bus, ctypes.byref(message))) == 0:
            _checked(_sd.sd_bus_wait(bus, ctypes.c_uint64(2**64 - 1)))
        elif message.value:
            if _sd.sd_bus_message_is_method_call(message, NAME, b"Tell") > 0:
                _checked(_sd.sd_bus_reply_method_return(message, b"s", ANSWER))
            _sd.sd_bus_message_unref(message)


main()
