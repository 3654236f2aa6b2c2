//! The entry points of a rule's text.

/// How each begins.
const ENTRIES: [(&str, &str); 4] = [
    ("direction", "fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32>"),
    ("finish", "fn finish(e: Element, step: vec4<f32>, s: ptr<function, State>, h: Hyper) -> vec4<f32>"),
    (
        "averaged",
        "fn averaged(e: Element, step: vec4<f32>, share: f32, s: ptr<function, State>, h: Hyper) -> vec4<f32>",
    ),
    ("evaluated", "fn evaluated(e: Element, s: State, h: Hyper) -> vec4<f32>"),
];

/// Of a text that does not compile: what the first of its entry points lacks that takes no `Element` first.
pub fn without_element(source: &str) -> Option<String> {
    ENTRIES.into_iter().find_map(|(name, signature)| {
        let (_, after) = source.split_once(&format!("fn {name}("))?;
        let (_, first) = after.split([',', ')']).next()?.split_once(':')?;
        (first.trim() != "Element").then(|| {
            format!("{name} takes an Element first, whose parameters and gradients are e.p and e.g: {signature}")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_as_they_were_are_told_apart() {
        let old = "fn direction(p: vec4<f32>, g: vec4<f32>, s: ptr<function, State>, h: Hyper) -> vec4<f32> {}";
        assert!(without_element(old).unwrap().starts_with("direction takes an Element first"));
        let with = |entry: &str| format!("{}\n{entry}", ENTRIES[0].1);
        assert_eq!(without_element(&with("")), None);
        assert_eq!(without_element(&with("fn finish( element : Element , step: vec4<f32>)")), None);
        assert!(without_element(&with("fn evaluated(p: vec4<f32>, s: State)")).unwrap().starts_with("evaluated"));
        assert_eq!(without_element("fn direction(\n"), None);
    }
}
