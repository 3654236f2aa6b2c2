//! Globs over names of tensors. By character, and the same on every system; nothing recurses, and a match takes at most
//! the product of both lengths, so that no text is too much.

use std::collections::VecDeque;

/// A glob that was read.
#[derive(Debug, Clone)]
pub struct Glob {
    /// What follows one another; the end of the list is the end of the name.
    nodes: Vec<Node>,
    /// What every match starts and ends with.
    prefix: String,
    suffix: String,
    shape: Shape,
}

#[derive(Debug, Clone)]
enum Node {
    /// This character.
    One(char),
    /// Any character.
    Any,
    /// A character of these ranges, or of none of them.
    Class { except: bool, ranges: Box<[(char, char)]> },
    /// Any characters.
    Star,
    /// Goes on at either place.
    Either(usize, usize),
    /// Goes on there.
    Jump(usize),
}

/// What of a glob is more than its ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// Nothing: it is a name.
    Name,
    /// Anything between them.
    Ends,
    /// More.
    Other,
}

/// Alternatives that have begun and not ended.
struct Open {
    /// The choice between the last of them and what may follow.
    choice: usize,
    /// The ends of those before.
    ends: Vec<usize>,
}

impl Glob {
    /// Reads a glob.
    ///
    /// # Errors
    /// In words, what begins and does not end, or ends and has not begun.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let mut nodes: Vec<Node> = Vec::new();
        let mut open: Vec<Open> = Vec::new();
        // Where something jumps to: what stands before it is not on every way.
        let mut target = 0;
        let mut rest: VecDeque<char> = pattern.chars().collect();
        let mut before = None;
        while let Some(c) = rest.pop_front() {
            match c {
                '?' => nodes.push(Node::Any),
                '*' => {
                    let starts =
                        matches!(before, None | Some('/')) || !open.is_empty() && matches!(before, Some('{' | ','));
                    let many = rest.front() == Some(&'*');
                    while rest.front() == Some(&'*') {
                        rest.pop_front();
                    }
                    if many && starts && rest.front() == Some(&'/') {
                        // Folders, or none.
                        rest.pop_front();
                        let end = nodes.len() + 3;
                        nodes.extend([Node::Either(nodes.len() + 1, end), Node::Star, Node::One('/')]);
                        target = end;
                    } else {
                        nodes.push(Node::Star);
                    }
                }
                '[' => nodes.push(class(&mut rest)?),
                '{' => {
                    open.push(Open { choice: nodes.len(), ends: Vec::new() });
                    nodes.push(Node::Jump(0));
                }
                ',' if !open.is_empty() => {
                    if let Some(last) = open.last_mut() {
                        last.ends.push(nodes.len());
                        nodes.push(Node::Jump(0));
                        nodes[last.choice] = Node::Either(last.choice + 1, nodes.len());
                        last.choice = nodes.len();
                        nodes.push(Node::Jump(0));
                        target = nodes.len();
                    }
                }
                '}' => {
                    let Some(last) = open.pop() else {
                        return Err("unopened alternatives: a '}' without its '{'; \\} is the character".to_owned());
                    };
                    nodes[last.choice] = Node::Jump(last.choice + 1);
                    target = nodes.len();
                    last.ends.into_iter().for_each(|end| nodes[end] = Node::Jump(target));
                }
                '\\' => match rest.pop_front() {
                    Some(c) => nodes.push(Node::One(c)),
                    None => {
                        return Err("dangling '\\': it takes the next character as it is, and none follows".to_owned());
                    }
                },
                c => nodes.push(Node::One(c)),
            }
            before = Some(c);
        }
        if !open.is_empty() {
            return Err("unclosed alternatives: a '{' without its '}'; \\{ is the character".to_owned());
        }
        Ok(Self::of(nodes, target))
    }

    fn of(nodes: Vec<Node>, target: usize) -> Self {
        let one = |node: &Node| match node {
            Node::One(c) => Some(*c),
            _ => None,
        };
        let prefix: Vec<_> = nodes.iter().map_while(one).collect();
        let after = prefix.len().max(target);
        let mut suffix: Vec<_> = nodes[after..].iter().rev().map_while(one).collect();
        suffix.reverse();
        let shape = match &nodes[prefix.len()..nodes.len() - suffix.len()] {
            [] => Shape::Name,
            [Node::Star] => Shape::Ends,
            _ => Shape::Other,
        };
        Self { prefix: prefix.into_iter().collect(), suffix: suffix.into_iter().collect(), nodes, shape }
    }

    /// What every match starts with, and what it ends with.
    pub fn ends(&self) -> [&str; 2] {
        [&self.prefix, &self.suffix]
    }

    /// Whether it matches the whole name.
    pub fn is_match(&self, name: &str) -> bool {
        let fits = name.len() >= self.prefix.len() + self.suffix.len();
        let ends = fits && name.starts_with(&self.prefix) && name.ends_with(&self.suffix);
        match self.shape {
            Shape::Name => ends && name.len() == self.prefix.len() + self.suffix.len(),
            Shape::Ends => ends,
            Shape::Other => ends && self.walk(name),
        }
    }

    /// Follows all ways through the nodes at once.
    fn walk(&self, name: &str) -> bool {
        let end = self.nodes.len();
        let mut seen = vec![0u64; end + 1];
        let (mut here, mut next, mut ways) = (Vec::new(), Vec::new(), vec![0]);
        let mut round = 1;
        self.arrive(&mut ways, &mut seen, round, &mut here);
        for c in name.chars() {
            round += 1;
            for &at in &here {
                match &self.nodes[at] {
                    Node::Star => ways.push(at),
                    node if node.takes(c) => ways.push(at + 1),
                    _ => {}
                }
                self.arrive(&mut ways, &mut seen, round, &mut next);
            }
            (here, next) = (next, here);
            next.clear();
        }
        seen[end] == round
    }

    /// Goes as far as can be gone without a character.
    fn arrive(&self, ways: &mut Vec<usize>, seen: &mut [u64], round: u64, there: &mut Vec<usize>) {
        while let Some(at) = ways.pop() {
            if std::mem::replace(&mut seen[at], round) == round {
                continue;
            }
            match self.nodes.get(at) {
                Some(Node::Either(first, second)) => ways.extend([*first, *second]),
                Some(Node::Jump(to)) => ways.push(*to),
                Some(Node::Star) => {
                    ways.push(at + 1);
                    there.push(at);
                }
                Some(_) => there.push(at),
                None => {}
            }
        }
    }
}

impl Node {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::One(one) => c == *one,
            Self::Any => true,
            Self::Class { except, ranges } => ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *except,
            Self::Star | Self::Either(..) | Self::Jump(_) => false,
        }
    }
}

/// The rest of a class, after its `[`.
fn class(rest: &mut VecDeque<char>) -> Result<Node, String> {
    let except = matches!(rest.front(), Some('!' | '^'));
    if except {
        rest.pop_front();
    }
    let mut ranges: Vec<(char, char)> = Vec::new();
    loop {
        let unclosed = || "unclosed class of characters: a '[' without its ']'; [[] is the character".to_owned();
        let from = rest.pop_front().ok_or_else(unclosed)?;
        if from == ']' && !ranges.is_empty() {
            return Ok(Node::Class { except, ranges: ranges.into() });
        }
        let is_range = rest.front() == Some(&'-') && rest.get(1).is_some_and(|c| *c != ']');
        let to = if is_range { rest.drain(..2).nth(1).unwrap_or(from) } else { from };
        if from > to {
            return Err(format!("invalid range of characters: {from:?} comes after {to:?}"));
        }
        ranges.push((from, to));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Glob;

    fn is_match(pattern: &str, name: &str) -> bool {
        Glob::new(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}")).is_match(name)
    }

    #[test]
    fn globs_match_whole_names_by_character() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("w", &["w"], &["", "ww", "W"]),
            ("", &[""], &["w"]),
            ("*", &["", "w", "a.b/c\\d\n"], &[]),
            ("*.bias", &[".bias", "a.bias", "a/b.bias"], &["bias", "a.biases"]),
            ("layer*", &["layer", "layer.0.w"], &["laye", "a.layer"]),
            ("a*a", &["aa", "aba"], &["a", "ab"]),
            ("a*b*c", &["abc", "a.b.c", "abcbc"], &["ac", "acb"]),
            ("sch?n", &["schön", "schon", "sch\u{1f600}n"], &["schn", "schoen"]),
            ("[ö]*", &["öl", "ö"], &["o", "ä"]),
            ("w[0-36-9]", &["w0", "w3", "w7"], &["w4", "w5", "w"]),
            ("w[!0-3]", &["w4", "wä"], &["w0", "w"]),
            ("w[^0]", &["w1", "w^"], &["w0"]),
            ("w[]]", &["w]"], &["w", "w[]"]),
            ("w[!]]", &["wx"], &["w]"]),
            ("w[-a]", &["w-", "wa"], &["w_"]),
            ("w[a-]", &["w-", "wa"], &["wb"]),
            ("layers[[]0[]].weight", &["layers[0].weight"], &["layers0.weight"]),
            ("layers\\[0\\].weight", &["layers[0].weight"], &["layers0.weight"]),
            ("a\\*", &["a*"], &["ab", "a\\*"]),
            ("{a,b}.w", &["a.w", "b.w"], &["c.w", ".w", "a"]),
            ("w{,.bias}", &["w", "w.bias"], &["w."]),
            ("{a{1,2},b*}x", &["a1x", "a2x", "bx", "b12x"], &["ax", "a1", "x"]),
            ("{a,b}{c,d}", &["ac", "bd"], &["ab", "abcd"]),
            ("{a*}*b", &["ab", "axb"], &["b"]),
            ("{*}", &["", "w"], &[]),
            ("a,b", &["a,b"], &["a", "b"]),
            ("**", &["", "a/b"], &[]),
            ("**/w", &["w", "a/w", "a/b/w", "/w"], &["aw"]),
            ("a/**/w", &["a/w", "a/b/c/w"], &["aw", "a/bw"]),
            ("a/**", &["a/", "a/b/c"], &["a"]),
            ("{**/a,b}", &["a", "x/a", "b"], &["x/b"]),
            ("a**/w", &["a/w", "ab/c/w"], &["w"]),
        ];
        for (pattern, matches, others) in cases {
            for name in *matches {
                assert!(is_match(pattern, name), "{pattern:?} {name:?}");
            }
            for name in *others {
                assert!(!is_match(pattern, name), "{pattern:?} {name:?}");
            }
        }
    }

    #[test]
    fn what_does_not_end_is_refused() {
        for (pattern, problem) in [
            ("layer[", "unclosed class"),
            ("layer[]", "unclosed class"),
            ("layer[!]", "unclosed class"),
            ("[z-a]", "'z' comes after 'a'"),
            ("{a,{b}", "unclosed alternatives"),
            ("a}", "unopened"),
            ("a\\", "dangling"),
        ] {
            let error = Glob::new(pattern).expect_err(pattern);
            assert!(error.contains(problem), "{pattern}: {error}");
        }
    }

    #[test]
    fn no_glob_is_too_much() {
        let nested = format!("{}w{}", "{".repeat(100_000), "}".repeat(100_000));
        assert!(is_match(&nested, "w") && !is_match(&nested, "v"));
        let long = "?".repeat(300_000);
        assert!(is_match(&long, &"ö".repeat(300_000)) && !is_match(&long, "w"));
        // Where backtracking would take for ever.
        assert!(!is_match(&format!("{}[c]", "a*".repeat(50)), &"a".repeat(2_000)));
        assert!(!is_match(&"{a,aa}".repeat(40), &"b".repeat(60)));
        assert!(is_match(&"{a,aa}".repeat(40), &"a".repeat(60)));
    }

    proptest! {
        /// Escaped by character, every name is a glob that matches it and nothing else.
        #[test]
        fn an_escaped_name_matches_itself_alone(name in "\\PC{0,12}", other in "\\PC{0,12}") {
            let escaped: String = name.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert!(is_match(&escaped, &name));
            prop_assert_eq!(is_match(&escaped, &other), name == other);
        }

        #[test]
        fn any_text_is_read_or_refused(pattern in "[a\\[\\]{},*?!/\\\\ö-]{0,20}", name in "[a,/ö\\[-]{0,8}") {
            if let Ok(glob) = Glob::new(&pattern) {
                glob.is_match(&name);
            }
        }
    }
}
