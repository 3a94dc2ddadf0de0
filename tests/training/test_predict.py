import threading

import pytest
import torch
from toy_learner import Toy, items, trainer

from peftbench.formulations.base import Prediction
from peftbench.training.distributed import Dist
from peftbench.training.predict import in_order, predict_all

CPU = torch.device("cpu")


class ThreadDist(Dist):
    """Ranks as threads of one process, talking through a list."""

    def __init__(self, rank, world, shared, meeting):
        super().__init__(CPU, rank, world, rank)
        object.__setattr__(self, "shared", shared)
        object.__setattr__(self, "meeting", meeting)

    def gather(self, value):
        self.shared[self.rank] = value
        self.meeting.wait()
        return list(self.shared)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
def test_every_item_is_answered_once_by_any_number_of_ranks(world):
    test, cfg = items(23, seed=9), trainer(eval_batch_tokens=24)
    alone = predict_all(Toy(), test, cfg=cfg, dist=Dist(CPU))
    answers, shared, meeting = [None] * world, [None] * world, threading.Barrier(world)

    learners = [Toy() for _ in range(world)]

    def work(rank):
        answers[rank] = predict_all(learners[rank], test, cfg=cfg, dist=ThreadDist(rank, world, shared, meeting))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.id for p in alone] == [item.id for item in test]
    assert answers == [alone] * world
    assert world == 1 or max(len(part) for part in shared) < len(test)


def test_eval_mode_without_gradients_and_the_mode_put_back():
    learner = Toy(dropout=0.5)
    learner.train()
    seen = []
    learner.dropout.register_forward_hook(
        lambda module, _i, _o: seen.append((module.training, torch.is_grad_enabled()))
    )
    predict_all(learner, items(5), cfg=trainer(), dist=Dist(CPU))
    assert set(seen) == {(False, False)}
    assert learner.training
    assert learner.dropout.training
    assert predict_all(learner, [], cfg=trainer(), dist=Dist(CPU)) == []


def test_a_missing_or_doubled_answer_is_an_error():
    test = items(3)
    answers = [Prediction(item.id, "0") for item in test]
    assert in_order(test, answers[::-1]) == answers
    for wrong in (answers[:2], [*answers, answers[0]], [answers[0], answers[0], answers[1]]):
        with pytest.raises(RuntimeError, match="3 items"):
            in_order(test, wrong)


def test_a_learner_that_swaps_ids_is_caught():
    class Wrong(Toy):
        def predict(self, batch):
            return [Prediction("train:0", "0") for _ in batch["ids"]]

    with pytest.raises(RuntimeError):
        predict_all(Wrong(), items(4), cfg=trainer(), dist=Dist(CPU))
