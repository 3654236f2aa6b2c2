//! Rows of [`Table::Tables`](super::Table::Tables): one buffer of words for all that kernels look up by block, tensor, track or line, so that a kernel
//! keeps bindings to spare. A struct's own text says which words a row has.

use std::fmt::Write as _;

/// Adds a struct that rows of `tables` have, from the text that declares it, with `load_...` and `..._WORDS`, and
/// `set_...` where the kernel writes such rows.
pub fn add_row(source: &mut String, text: &str, name: &str, writes: bool) {
    source.push_str(text);
    add_loader(source, text, name, writes);
}

/// The same of a further struct of a text that is there.
pub fn add_loader(source: &mut String, text: &str, name: &str, writes: bool) {
    let (mut values, mut stores, mut words) = (Vec::new(), String::new(), 0u32);
    for (member, ty) in members(text, name) {
        let (scalar, count) = numbers(ty);
        let word = |i: u32| match scalar {
            "u32" => format!("tables[at + {i}u]"),
            _ => format!("bitcast<{scalar}>(tables[at + {i}u])"),
        };
        let of: Vec<_> = (words..words + count).map(word).collect();
        values.push(if count == 1 { of.concat() } else { format!("{ty}({})", of.join(", ")) });
        for i in 0..count {
            let own = if count == 1 { format!("row.{member}") } else { format!("row.{member}[{i}]") };
            let bits = if scalar == "u32" { own } else { format!("bitcast<u32>({own})") };
            let _ = writeln!(stores, "    tables[at + {}u] = {bits};", words + i);
        }
        words += count;
    }
    let lower = snake(name);
    let _ = writeln!(source, "const {}_WORDS: u32 = {words}u;", lower.to_uppercase());
    let _ = writeln!(source, "fn load_{lower}(at: u32) -> {name} {{\n    return {name}({});\n}}", values.join(", "));
    if writes {
        let _ = writeln!(source, "fn set_{lower}(at: u32, row: {name}) {{\n{stores}}}");
    }
}

/// Members of a struct with their types.
fn members<'a>(text: &'a str, name: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let after = text.split_once(&format!("struct {name} {{")).map_or("", |(_, after)| after);
    let body = after.split_once("\n}").map_or("", |(body, _)| body);
    let lines = body.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    lines.filter_map(|line| line.strip_suffix(',')?.split_once(": "))
}

/// What the words of a type are, and how many it has.
fn numbers(ty: &str) -> (&str, u32) {
    if let Some(scalar) = ty.strip_prefix("vec2<").and_then(|rest| rest.strip_suffix('>')) {
        return (scalar, 2);
    }
    let array = ty.strip_prefix("array<").and_then(|rest| rest.strip_suffix('>')?.split_once(", "));
    array.and_then(|(scalar, count)| Some((scalar, count.parse().ok()?))).unwrap_or((ty, 1))
}

fn snake(name: &str) -> String {
    let mut result = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !result.is_empty() {
            result.push('_');
        }
        result.extend(c.to_lowercase());
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_numbered_in_the_order_of_the_struct() {
        let text = "struct FewWords {\n    first: u32,\n    // Of some kind.\n    rest: array<f32, 2>,\n    last: vec2<u32>,\n}\n";
        let mut source = String::new();
        add_row(&mut source, text, "FewWords", true);
        let expected = "const FEW_WORDS_WORDS: u32 = 5u;\n\
            fn load_few_words(at: u32) -> FewWords {\n    return FewWords(tables[at + 0u], \
            array<f32, 2>(bitcast<f32>(tables[at + 1u]), bitcast<f32>(tables[at + 2u])), \
            vec2<u32>(tables[at + 3u], tables[at + 4u]));\n}\n\
            fn set_few_words(at: u32, row: FewWords) {\n    tables[at + 0u] = row.first;\n    \
            tables[at + 1u] = bitcast<u32>(row.rest[0]);\n    tables[at + 2u] = bitcast<u32>(row.rest[1]);\n    \
            tables[at + 3u] = row.last[0];\n    tables[at + 4u] = row.last[1];\n}\n";
        assert_eq!(source.strip_prefix(text), Some(expected));
    }
}
