//! What was made for the caller's buffers, kept while it is of use and no longer: it keeps these alive.
//!
//! The things of a round are kept until the next. What is not in that one is let go, and remembered by a number alone.
//! If it is made again, the caller goes round among some sets of buffers: from then on it is kept for as long as it has
//! stayed away the last time. Buffers so small that it does not matter are kept as if they had come back.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

/// Rounds after which even the number is forgotten.
const ROUNDS: u64 = 16;

/// Bytes of the caller's that may be kept alive without a sign that they will be used again.
const SMALL: u64 = 1 << 20;

/// What a thing is made for.
pub trait Keyed: Hash + Eq {
    /// Bytes that it keeps alive.
    fn bytes(&self) -> u64;
}

/// Things by what they are made for.
#[derive(Debug)]
pub struct Recent<K, T> {
    numbers: BuildHasherDefault<DefaultHasher>,
    entries: HashMap<u64, Entry<K, T>>,
    round: u64,
}

#[derive(Debug)]
struct Entry<K, T> {
    /// The round it was used in last.
    used: u64,
    /// Rounds from its last use to this, the last time that it came back; 0 if it never has.
    away: u64,
    /// What it is, while it is kept.
    held: Option<(K, T)>,
}

impl<K, T> Default for Recent<K, T> {
    fn default() -> Self {
        Self { numbers: BuildHasherDefault::default(), entries: HashMap::new(), round: 0 }
    }
}

impl<K: Keyed, T: Clone> Recent<K, T> {
    /// The thing made for that, if it is kept.
    pub fn get(&self, key: &K) -> Option<T> {
        let held = self.entries.get(&self.numbers.hash_one(key))?.held.as_ref()?;
        (held.0 == *key).then(|| held.1.clone())
    }

    /// The things of the next round. What is in none any more is let go.
    pub fn turn(&mut self, things: Vec<(K, T)>) {
        self.round += 1;
        let round = self.round;
        for (key, thing) in things {
            let number = self.numbers.hash_one(&key);
            let entry = self.entries.entry(number).or_insert(Entry { used: round, away: 0, held: None });
            if entry.used + 1 < round {
                entry.away = round - entry.used;
            }
            entry.used = round;
            entry.held = Some((key, thing));
        }
        // What may yet come back, the newest first.
        let mut doubtful: Vec<(u64, u64)> = Vec::new();
        for (number, entry) in &self.entries {
            let out = round - entry.used;
            if entry.held.is_some() && out > 0 && out >= entry.away {
                doubtful.push((out, *number));
            }
        }
        doubtful.sort_unstable();
        let mut left = SMALL;
        for (out, number) in doubtful {
            let Some(entry) = self.entries.get_mut(&number) else { continue };
            let bytes = entry.held.as_ref().map_or(0, |(key, _)| key.bytes());
            match left.checked_sub(bytes) {
                Some(rest) if out <= ROUNDS => left = rest,
                _ => entry.held = None,
            }
        }
        if round.is_multiple_of(ROUNDS) {
            self.entries.retain(|_, entry| entry.held.is_some() || round - entry.used <= ROUNDS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer by its name, of so many bytes.
    type Buffer = (char, u64);

    impl Keyed for Buffer {
        fn bytes(&self) -> u64 {
            self.1
        }
    }

    const LARGE: u64 = 64 << 20;

    /// Which of the named are kept after rounds with one each.
    fn kept(recent: &mut Recent<Buffer, ()>, rounds: &str, bytes: u64) -> String {
        for name in rounds.chars() {
            recent.turn(vec![((name, bytes), ())]);
        }
        ('a'..='z').filter(|name| recent.get(&(*name, bytes)).is_some()).collect()
    }

    #[test]
    fn what_is_replaced_is_let_go_at_once() {
        let recent = &mut Recent::default();
        for name in 'a'..='z' {
            assert_eq!(kept(recent, &name.to_string(), LARGE), name.to_string());
        }
        assert!(recent.entries.len() <= 2 * ROUNDS as usize, "{} are remembered", recent.entries.len());
    }

    #[test]
    fn what_comes_back_is_kept_for_as_long_as_it_stayed_away() {
        let recent = &mut Recent::default();
        assert_eq!(kept(recent, "ab", LARGE), "b");
        assert_eq!(kept(recent, "ab", LARGE), "ab", "both have come back");
        assert_eq!(kept(recent, "abab", LARGE), "ab");
        // Then the caller uses others.
        assert_eq!(kept(recent, "x", LARGE), "bx");
        assert_eq!(kept(recent, "y", LARGE), "y");
        assert_eq!(kept(recent, "abcabcabc", LARGE), "abc");
        assert_eq!(kept(recent, "uvw", LARGE), "w");
    }

    #[test]
    fn staying_is_no_coming_back() {
        let recent = &mut Recent::default();
        assert_eq!(kept(recent, "aaaab", LARGE), "b");
    }

    #[test]
    fn small_ones_are_kept_for_a_while() {
        let recent = &mut Recent::default();
        assert_eq!(kept(recent, "abcde", SMALL / 4), "abcde");
        assert_eq!(kept(recent, "f", SMALL / 4), "bcdef", "the oldest has no room");
        assert_eq!(kept(recent, &"f".repeat(ROUNDS as usize + 1), SMALL / 4), "f");
    }

    #[test]
    fn a_number_that_two_things_share_finds_neither_for_the_other() {
        let recent = &mut Recent::default();
        recent.turn(vec![(('a', 1), ())]);
        let number = recent.numbers.hash_one(('b', 1));
        let own = recent.entries.drain().next().map(|(_, entry)| entry);
        recent.entries.extend(own.map(|entry| (number, entry)));
        assert!(recent.get(&('b', 1)).is_none());
    }
}
