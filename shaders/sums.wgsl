// Sums of all tensors, of parameters and then of updates, or of whatever a pass adds up.

fn sum_at(index: u32) -> Partial {
    return load_partial(settings.sums_at + index * PARTIAL_WORDS);
}
