// Whether a tensor has no gradient in this step.
fn is_absent(tensor: u32) -> bool {
    return tables[settings.absent_at + tensor] != 0u;
}
