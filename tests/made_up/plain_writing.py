"""Writing without any cache, for tests of what is written with one."""


def alone(net, item, steps):
    """The likeliest tokens, one after the other, each from a pass over the whole text without a cache."""
    written = []
    while len(written) < steps and net.formulation.eos not in written:
        teacher = net.formulation.teacher_batch([item.data["prompt"]], [[*written, 0]])
        logits, _ = net.formulation.answer_logits(net.model, teacher)
        written.append(int(logits[0, -1].argmax()))
    return written
