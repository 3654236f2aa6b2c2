// The tensors' sums of parameters and of updates.

@group(1) @binding(4) var<storage, read> sums: array<Partial>;

fn sum_at(index: u32) -> Partial {
    return sums[index];
}
