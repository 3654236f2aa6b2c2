// Whether the gradients that come next complete a step, after so many micro-batches.
fn completes_step(micro: u32) -> bool {
    return micro + 1u >= settings.accumulate;
}
