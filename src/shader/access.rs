//! How kernels reach the memory of a span, or of the spans of a list or of a bundle.

use std::fmt::Write as _;
use std::num::NonZeroU32;

use super::rows::add_row;

/// How a kernel reaches a span's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Access {
    /// By `vec4`, else by words.
    pub vector: bool,
    /// Gradients lie in the parameters' buffer, which can only be bound for writing.
    pub aliased: bool,
    /// Gradients are zeroed after they are read.
    pub clear: bool,
    /// A table says which block a workgroup serves, and where its gradients are: of a list of spans in one pair of buffers.
    pub listed: bool,
    /// The same with bindings in an array of them, where a dispatch serves a bundle of spans in any buffers.
    pub bundle: Option<NonZeroU32>,
}

impl Access {
    /// Whether a table has a row for each workgroup.
    pub fn has_table(self) -> bool {
        self.listed || self.bundle.is_some()
    }

    /// Whether gradients are bound for writing.
    pub fn writes_gradients(self) -> bool {
        self.aliased || self.clear
    }
}

/// The block that a workgroup serves, and where its gradients are.
pub fn add_span(source: &mut String, access: Access) {
    add_row(source, file!("blocks.wgsl"), "Block", false);
    source.push_str(file!("storage/f32.wgsl"));
    source.push_str(if access.has_table() { file!("list.wgsl") } else { file!("span.wgsl") });
    if access.bundle.is_some() {
        // Before all else, as WGSL wants it, and on the first line, so that errors still name a rule's own lines.
        source.insert_str(0, "enable wgpu_binding_array; ");
    }
}

/// Declares what a span has in a buffer, and the functions that reach it.
pub fn declare(source: &mut String, access: Access, binding: u32, mode: &str, name: &str, element: &str) {
    let (ty, one) = if access.bundle.is_some() {
        // naga takes arrays of structs only.
        let _ = writeln!(source, "struct Bound_{name} {{\n    words: array<{element}>,\n}}");
        (format!("binding_array<Bound_{name}>"), format!("{name}[assigned.member].words"))
    } else {
        (format!("array<{element}>"), name.to_owned())
    };
    // Writing to a string cannot fail.
    let _ = writeln!(source, "@group(1) @binding({binding}) var<storage, {mode}> {name}: {ty};");
    let _ = writeln!(source, "fn read_{name}(at: u32) -> {element} {{\n    return {one}[at];\n}}");
    if mode == "read_write" {
        let _ = writeln!(source, "fn write_{name}(at: u32, words: {element}) {{\n    {one}[at] = words;\n}}");
    }
}
