import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_learner import trainer

from peftbench.errors import UsageError
from peftbench.training.batching import evaluation_batches, plan_batches, shard, total_steps

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=120)
quick = settings(max_examples=60, deadline=None)


@quick
@given(LENGTHS, st.integers(1, 17), st.integers(0, 2**33))
def test_every_item_comes_once_in_a_pass(lengths, batch_size, seed):
    per_pass = -(-len(lengths) // batch_size)
    plan = plan_batches(lengths, batch_size, 3 * per_pass, seed)
    for start in range(0, len(plan), per_pass):
        batches = plan[start : start + per_pass]
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        short = [len(batch) for batch in batches if len(batch) < batch_size]
        assert short == ([len(lengths) % batch_size] if len(lengths) % batch_size else [])


@quick
@given(LENGTHS, st.integers(1, 17), st.integers(1, 50), st.integers(0, 5))
def test_a_plan_is_a_function_of_its_seed_and_a_prefix_of_the_longer_one(lengths, batch_size, steps, seed):
    plan = plan_batches(lengths, batch_size, steps, seed)
    assert len(plan) == steps
    assert plan == plan_batches(lengths, batch_size, steps + 7, seed)[:steps]


@quick
@given(st.lists(st.integers(), min_size=1, max_size=40, unique=True), st.integers(1, 6), st.none() | st.integers(1, 9))
def test_shards_cover_a_batch_once_and_every_rank_has_a_pass(batch, world, micro_batch):
    shards = [shard(batch, rank, world, micro_batch) for rank in range(world)]
    assert sorted(i for passes in shards for one in passes for i in one) == sorted(batch)
    assert all(len(passes) >= 1 for passes in shards)
    assert all(len(one) <= (micro_batch or len(batch)) for passes in shards for one in passes)
    counts = [sum(map(len, passes)) for passes in shards]
    assert max(counts) - min(counts) <= 1


@quick
@given(st.lists(st.integers(1, 200), max_size=120), st.integers(1, 2000))
def test_evaluation_batches_hold_each_item_once_within_the_budget(lengths, budget):
    batches = evaluation_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_passes_differ_and_buckets_save_padding():
    lengths = [10 + (i * 37) % 190 for i in range(2000)]

    def padded(plan):
        return sum(len(batch) * max(lengths[i] for i in batch) for batch in plan)

    plan = plan_batches(lengths, 10, 400, seed=1)
    assert {tuple(sorted(b)) for b in plan[:200]}.isdisjoint({tuple(sorted(b)) for b in plan[200:]})
    assert padded(plan) < 1.1 * 2 * sum(lengths)
    few = [10 + (i * 37) % 190 for i in range(70)]
    passes = [{tuple(sorted(b)) for b in plan_batches(few, 8, 27, seed=1)[n : n + 9]} for n in (0, 9, 18)]
    assert passes[0].isdisjoint(passes[1])  # a small set does not meet in the same batches on every pass


def test_pinned_plan():
    """The stream behind a plan is frozen: the same command gives the same batches on any machine."""
    assert plan_batches([3, 9, 4, 7, 5, 8, 6], 3, 3, seed=1) == [[6, 3, 1], [5], [0, 2, 4]]


def test_steps_win_over_epochs():
    assert total_steps(trainer(steps=7, epochs=3.0), 100) == 7
    assert total_steps(trainer(steps=None, epochs=1.5, batch_size=8), 35) == 8
    with pytest.raises(UsageError, match=r"trainer\.steps"):
        total_steps(trainer(steps=None), 10)
