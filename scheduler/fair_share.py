"""What one session has had of the device, as far as its order among others goes."""

from dataclasses import dataclass

from .origin import Account
from .session_usage import SessionUsage


@dataclass(eq=False, slots=True)
class FairShare:
    """One session's share of the device, see `fair_shares.py`.

    account: of the session's API key, which gives it its weight.
    virtual_s: seconds that the device has computed for the session, divided by its weight, and kept within
    bounds about the fair level.
    owner: see `Origin`. num_active, num_begun: the session's requests that have not ended, and all.
    """

    account: Account
    usage: SessionUsage
    owner: bytes = b""
    virtual_s: float = 0.0
    num_active: int = 0
    num_begun: int = 0
