// The tensors' sums of parameters and of updates, ahead of the parts that this step leaves for its
// health.

fn sum_at(index: u32) -> Partial {
    return partials[index];
}
