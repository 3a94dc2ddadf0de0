"""The hub's own conversions of pickled weights to safetensors. Free of torch.

The hub's bot proposes one as a pull request, titled the same everywhere; one by anybody else is ignored. Which commit a
conversion has is remembered in the hub's cache, so that it is found without a network as the weights are.
"""

from __future__ import annotations

from peftbench.hub import HubProblem, Repository, fetch, patiently

BOT = "SFconvertbot"
TITLE = "Adding `safetensors` variant of this model"


def known(repository: Repository, commit: str) -> str | None:
    """The conversion of `commit` that was found before and lies in the hub's cache."""
    return repository.reference(_name(commit))


def of(repository: Repository, commit: str) -> str | None:
    """The bot's commit on top of `commit`: the same files plus model.safetensors. None if the hub has none.

    Raises:
        HubProblem: the hub could not be asked.
    """
    try:
        return patiently(lambda: _ask(repository, commit), repository)
    except HubProblem as problem:
        if problem.status in (403, 404):  # a repository without discussions
            return None
        raise


def remember(repository: Repository, commit: str, conversion: str) -> None:
    """Keep what `of` has found, once the conversion lies in the hub's cache, and what its branch names: the client
    keeps the name of a commit only beside files of it.

    Raises:
        HubProblem: the commit's config.json, which stands for it, cannot be had.
    """
    fetch(repository, commit, ["config.json"])
    repository.remember(_name(commit), conversion)


def _name(commit: str) -> str:
    return f"safetensors-of/{commit}"


def _ask(repository: Repository, commit: str) -> str | None:
    from huggingface_hub import HfApi

    api = HfApi()
    for pull in api.get_repo_discussions(repository.name, author=BOT, discussion_type="pull_request"):
        if pull.title == TITLE and pull.author == BOT and pull.git_reference:
            newest, *older = api.list_repo_commits(repository.name, revision=pull.git_reference)
            if older and older[0].commit_id == commit:
                return newest.commit_id
    return None
