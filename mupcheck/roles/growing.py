"""From how the sides of a parameter grow, and what its name says, to a role or to the question that is left."""

from dataclasses import dataclass

from mupcheck.roles.families import IN_MIXER, KNOWN, PARTS, in_mixer
from mupcheck.roles.names import Use, in_block
from mupcheck.roles.sides import CONV, EITHER, MATRIX, OTHER, TABLE, VECTOR, is_bias, is_norm
from mupcheck.theory.parametrization import Role

LEAST, MOST = 0.25, 1.75  # powers of width by which a side grows that the tables speak of
VECTOR_ROLES = (Role.NORM_GAIN, Role.GATE_SCALAR, Role.HEAD_NORM_GAIN)


@dataclass(frozen=True)
class Side:
    """What is known of a slice before it has a role."""

    use: Use
    what: str
    fan_in: float  # powers of width
    fan_out: float
    part: str = ""


def unexplained(side: Side) -> str:
    """Return a question where a side grows as no table speaks of."""
    if side.what == OTHER:
        return "a parameter of three and more axes whose sides no known name tells; state its role"
    for word, power in (("fan-in", side.fan_in), ("fan-out", side.fan_out)):
        if power and not LEAST <= power <= MOST:
            return (
                f"its {word} grows as width^{power:.2g}, and the rules are for sides that grow as the "
                "width or not at all; keep it, or compare widths further apart"
            )
    if side.what == TABLE and side.fan_in:
        return "a table of which the number of rows grows with width; keep that, or state hidden if it is no table"
    return ""


def known_or_grown(side: Side, fan_out: int, vocabularies: set[int]) -> tuple[Role | None, str, str]:
    """Return (role, why, question) from names that are known and from growth."""
    use = side.use
    grown, why, question = _grown(side, fan_out, vocabularies)
    known = PARTS.get(side.part) if side.part else KNOWN.get(use.inside)
    if use.inside in IN_MIXER and in_mixer(use):
        known = IN_MIXER[use.inside]
    if known is None or known == grown or is_bias(use):
        return grown, why, question
    word = side.part or use.inside
    if fits(known, side):
        return known, f"{word} is known; {_growth_in_words(side)}", ""
    if grown is not None and known in (Role.SHORT_CONV, Role.HEAD_NORM_GAIN, Role.GATE):
        return grown, why, ""  # a word that others use for other things
    return None, "", f"{word} would be {known}, {needs(known)}; {says(side)}; state its role"


def _grown(side: Side, fan_out: int, vocabularies: set[int]) -> tuple[Role | None, str, str]:
    """Return (role, why, question) from growth alone."""
    use, words = side.use, _growth_in_words(side)
    blocks = in_block(use.name)
    if side.what == VECTOR or (side.what == CONV and not side.fan_in and not side.fan_out):
        if side.fan_out:
            return Role.NORM_GAIN, f"a vector that grows{' (a bias)' * is_bias(use)}: vector-like", ""
        if is_norm(use):
            return Role.HEAD_NORM_GAIN, "a norm over what does not grow, shared by all heads", ""
        if is_bias(use) and not blocks:
            return Role.NORM_GAIN, "a bias of outputs that do not grow: as at the base width", ""
        if is_bias(use) or side.what == CONV:
            return Role.GATE_SCALAR, "a vector of fixed length inside a block, as a gate's", ""
        return (
            None,
            "",
            (
                "a vector of fixed length: state gate_scalar (one number per head), head_norm_gain (shared by heads) "
                "or norm_gain"
            ),
        )
    if side.what == CONV and not side.fan_in:
        return Role.SHORT_CONV, f"{words}: one filter per channel", ""
    if side.fan_in and side.fan_out:
        return Role.HIDDEN, f"{words}: a hidden matrix", ""
    if side.what == EITHER and (side.fan_in or side.fan_out):
        return (
            None,
            "",
            (
                "a bare matrix of which one side grows: state embedding (from the side that does not grow), gate or "
                "readout (to it), or short_conv"
            ),
        )
    if side.fan_in:
        if blocks:
            return Role.GATE, f"{words}, inside a block: output-like (gate, router, fixed number of heads)", ""
        if fan_out in vocabularies or use.inside in KNOWN:
            return Role.READOUT, f"{words}, outside of blocks, to as many as there are tokens: the readout", ""
        return None, "", "only its fan-in grows, outside of blocks: state readout, or gate if it is inside the network"
    if side.fan_out:
        return Role.EMBEDDING, f"{words}: an input weight", ""
    if side.what == TABLE:
        return Role.EMBEDDING, "no side grows: as at the base width", ""
    return Role.HEAD_NORM_GAIN, "no side grows: shared by all heads, as at the base width", ""


def fits(role: Role, side: Side) -> bool:
    """Say whether a parameter grows as its role says."""
    if role in VECTOR_ROLES:
        return side.what == VECTOR
    if side.what == VECTOR:
        return False
    grows_in, grows_out = bool(side.fan_in), bool(side.fan_out)
    if role == Role.HIDDEN:
        return grows_in and grows_out
    if side.what == EITHER and grows_in != grows_out:  # either way round
        return True
    if role in (Role.EMBEDDING, Role.SHORT_CONV):
        return not grows_in and (role == Role.EMBEDDING or side.what in (CONV, EITHER))
    return grows_in and side.what in (MATRIX, EITHER) and not (role == Role.READOUT and grows_out)


def turned(role: Role, side: Side) -> bool:
    """Say whether a bare matrix with this role is [in, out]."""
    if bool(side.fan_in) == bool(side.fan_out):
        return False
    return bool(side.fan_in) == (role in (Role.EMBEDDING, Role.SHORT_CONV))


def needs(role: Role) -> str:
    """Return what a role asks of a parameter's sides."""
    if role in VECTOR_ROLES:
        return "which is a vector"
    return {
        Role.HIDDEN: "both sides of which grow",
        Role.EMBEDDING: "whose fan-in does not grow",
        Role.SHORT_CONV: "a depthwise convolution, whose fan-in does not grow",
        Role.READOUT: "whose fan-in alone grows",
        Role.GATE: "whose fan-in grows",
    }[role]


def says(side: Side) -> str:
    """Return how a parameter grows, as the end of a refusal."""
    kind = "it is a vector and" if side.what == VECTOR else "here"
    return f"{kind} {_growth_in_words(side)}"


def _growth_in_words(side: Side) -> str:
    sides = [("fan-out", side.fan_out)] if side.what == VECTOR else [("fan-in", side.fan_in), ("fan-out", side.fan_out)]
    grown = [word for word, power in sides if power]
    if len(grown) == len(sides):
        return "both sides grow" if len(sides) == 2 else "its length grows"
    if not grown:
        return "no side grows" if len(sides) == 2 else "its length does not grow"
    return f"only the {grown[0]} grows"
