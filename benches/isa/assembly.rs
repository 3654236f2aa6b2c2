//! Instructions of a compiled kernel, by kind.

/// Instructions of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// On vectors of threads.
    pub vector: u32,
    /// On what all threads share.
    pub scalar: u32,
    /// Memory of the device.
    pub memory: u32,
    /// Memory of the workgroup.
    pub shared: u32,
}

impl Counts {
    pub fn all(self) -> u32 {
        self.vector + self.scalar + self.memory + self.shared
    }

    fn add(&mut self, mnemonic: &str) {
        let place = match mnemonic.split('_').next() {
            Some("v") => &mut self.vector,
            Some("s") => &mut self.scalar,
            Some("ds") => &mut self.shared,
            Some("buffer" | "global" | "flat" | "scratch" | "image") => &mut self.memory,
            _ => return,
        };
        *place += 1;
    }
}

/// A line of the disassembly: its place in the kernel, and what stands there.
enum Line<'a> {
    Label(&'a str),
    Instruction { mnemonic: &'a str, operands: &'a str },
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let line = |text| {
        let code = str::trim(text).split([';', '/']).next().unwrap_or("").trim();
        if let Some(label) = code.strip_suffix(':') {
            return Some(Line::Label(label));
        }
        let (mnemonic, operands) = code.split_once(char::is_whitespace).unwrap_or((code, ""));
        let is_code = ["v_", "s_", "ds_", "buffer_", "global_", "flat_", "scratch_", "image_"];
        is_code
            .iter()
            .any(|prefix| mnemonic.starts_with(prefix))
            .then_some(Line::Instruction { mnemonic, operands: operands.trim() })
    };
    text.lines().filter_map(line).collect()
}

/// All instructions, and those of the loop that reaches memory most often, the longest of such: from a label to a jump back to
/// it.
pub fn counts(text: &str) -> (Counts, Counts) {
    let lines = lines(text);
    let of = |lines: &[Line<'_>]| {
        let mut counts = Counts::default();
        for line in lines {
            if let Line::Instruction { mnemonic, .. } = line {
                counts.add(mnemonic);
            }
        }
        counts
    };
    let loop_to = |(at, line): (usize, &Line<'_>)| {
        let Line::Instruction { mnemonic, operands } = line else { return None };
        let is_jump = mnemonic.starts_with("s_branch") || mnemonic.starts_with("s_cbranch");
        let is_start = |line: &Line<'_>| matches!(line, Line::Label(label) if label == operands);
        let start = lines[..at].iter().position(is_start).filter(|_| is_jump)?;
        Some(&lines[start..=at])
    };
    let loops = lines.iter().enumerate().filter_map(loop_to).map(of);
    let main = loops.max_by_key(|counts| (counts.memory, counts.all()));
    (of(&lines), main.unwrap_or_default())
}
