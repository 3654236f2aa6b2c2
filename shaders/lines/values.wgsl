// Values by line, the tensors' headers first.

@group(1) @binding(6) var<storage, read> lines: array<u32>;
