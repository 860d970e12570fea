"""`thetahat verify`."""

from thetahat.cli.words import Json, Quiet, Words, emit, emit_json, find_config, is_first_rank, listen_to_library, say


def verify(words: list[str] | None = Words, quiet: bool = Quiet, json: bool = Json) -> None:
    """Prove on a config and its data that value and gradient do not depend on how a batch is cut."""
    listen_to_library(quiet=quiet, facts=False)
    config = find_config(words)
    from thetahat.core.errors import VerificationError
    from thetahat.verbs.verify import verify as prove

    found = []
    for one in prove(config):
        found.append(one)
        if not json and is_first_rank():
            emit(
                f"{'holds' if one.holds else 'FAILS'}  {one.dtype:<8}  {one.name:<20}  value {one.value_error:.1e}"
                f"  gradient {one.max_relative_gradient_error:.1e}  bound {one.bound:.0e}"
            )
    if json and is_first_rank():
        emit_json({"equivalences": found})
    if broken := [f"{one.name} ({one.dtype})" for one in found if not one.holds]:
        raise VerificationError(f"{len(broken)} of {len(found)} equivalences fail: {', '.join(broken)}")
    if not quiet and is_first_rank():
        say(f"All {len(found)} equivalences hold.\nNext: thetahat train with the same arguments")
