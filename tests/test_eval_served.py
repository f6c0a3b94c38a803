"""An owl behind `owl serve` as a contestant: the records are those of the same owl in this process."""

from pathlib import Path

import pytest

from eval_tasks import Chains, Pictures, Sums, files
from mplug_owl.eval.endpoints import OwlEndpoint
from mplug_owl.eval.openai_endpoint import OpenAIEndpoint
from mplug_owl.eval.run import run
from mplug_owl.eval.task import Task

pytest.importorskip("fastapi", reason="the server needs FastAPI: pip install 'mplug_owl[serve]'")
pytest.importorskip("uvicorn", reason="the server needs uvicorn: pip install 'mplug_owl[serve]'")


@pytest.mark.parametrize("task", [Pictures(), Chains(2), Sums(5)], ids=lambda task: task.name)
def test_a_served_owl_gives_the_records_of_the_same_owl_here(task: Task, tmp_path: Path) -> None:
    from serving import endless_owl, served

    run(OwlEndpoint(endless_owl(), "tiny"), [task], tmp_path / "here")
    with served({"tiny": endless_owl()}) as place:
        for concurrency in (1, 8):
            endpoint = OpenAIEndpoint(f"{place.url}/v1", "tiny", concurrency=concurrency)
            run(endpoint, [task], tmp_path / str(concurrency))
    here, one, eight = (files(tmp_path / name) for name in ("here", "1", "8"))
    assert one == eight
    for name in (f"{task.name}/samples.jsonl", f"{task.name}/rows.json"):
        assert one[name] == here[name]
