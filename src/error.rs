use crate::options::OptionError;

/// Everything that can go wrong. Each variant names the tensor, group or key it is about.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option, in the configuration or set at run time, is unknown, of the wrong type or impossible.
    #[error("{table}.{source}")]
    Option {
        /// The table of the configuration: `optimizer`, `groups."*.bias"`, `gradient`, `schedule`.
        table: String,
        /// The key and what is allowed.
        source: OptionError,
    },
    /// A call that cannot be served now, or not with what it was given.
    #[error("{call}: {problem}")]
    Call {
        /// The call.
        call: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// A rule's name that is not in the list.
    #[error("unknown rule {name:?}: known are {known}")]
    UnknownRule {
        /// The name as given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A group of the configuration cannot be used.
    #[error("group {pattern:?}: {problem}")]
    Group {
        /// The glob of the group.
        pattern: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// A tensor cannot be used as it was handed over.
    #[error("tensor {tensor:?}: {problem}")]
    Tensor {
        /// The tensor's name.
        tensor: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// Two tensors that must not share memory do.
    #[error("tensors {first:?} and {second:?} overlap in memory ({what})")]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The tensor that overlaps it.
        second: String,
        /// Which of their slices meet.
        what: &'static str,
    },
    /// The tensors are more than kernels can number.
    #[error("{what}: {problem}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much, and what is allowed.
        problem: String,
    },
    /// No adapter could be opened.
    #[error("no usable GPU adapter: {0}")]
    NoAdapter(String),
    /// The device refused an object; the text is the driver's or wgpu's.
    #[error("the device refused {what}: {reason}")]
    Device {
        /// What was being made.
        what: String,
        /// The device's words.
        reason: String,
    },
    /// The device is lost; nothing can be recorded or read any more.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
    /// A wait for the device took longer than [`Gpu::timeout`](crate::gpu::Gpu::timeout).
    #[error("{what} did not arrive within {after:?}: {}", why_late(*.busy))]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// The limit that passed.
        after: std::time::Duration,
        /// Whether the device was still at work on what was submitted to its queue, the caller's own work among it.
        busy: bool,
    },
    /// The device has no memory left.
    #[error("the device has no memory for {what}")]
    OutOfMemory {
        /// What was being made, with its size.
        what: String,
    },
    /// More steps are recorded, and not yet known to be done, than the step table has rows.
    #[error(
        "the step table is full: {pending} steps are recorded and not yet done, of at most {rows}; submit them, let the device finish, and record again"
    )]
    StepTableFull {
        /// Steps recorded whose end is not known.
        pending: u64,
        /// Rows of the table.
        rows: u64,
    },
    /// Steps, checkpoints, or changes of weights and rows, are recorded and not submitted, and would be lost.
    #[error(
        "{pending} steps, checkpoints or other changes are recorded and not submitted: submit or drop their encoders first"
    )]
    StepsUnderWay {
        /// How many.
        pending: u64,
    },
    /// A shader did not compile. Only a rule from outside can cause this.
    #[error("the shader of rule {rule:?} is not valid:\n{reason}")]
    Shader {
        /// The rule's name.
        rule: String,
        /// The compiler's words, with the rule file's own line numbers.
        reason: String,
    },
    /// A slot of a rule from outside cannot be called so.
    #[error("slot {slot:?} of rule {rule:?}: {problem}")]
    Slot {
        /// The rule's name.
        rule: String,
        /// The slot's name.
        slot: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// A rule's WGSL and its twin do not compute the same.
    #[error("rule {rule:?} and its twin disagree: {reason}")]
    Twin {
        /// The rule's name.
        rule: String,
        /// The figures, and the rule's line.
        reason: String,
    },
    /// A saved state does not fit the optimizer that should take it. Lists every mismatch.
    #[error("the state does not fit: {0}")]
    State(String),
    /// A safetensors file cannot be read or written.
    #[error("safetensors: {0}")]
    Safetensors(String),
    /// A file cannot be read or written.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// The operating system's words.
        reason: String,
    },
}

/// The result of every fallible call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn tensor(name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { tensor: name.to_owned(), problem: problem.into() }
    }

    pub(crate) fn call(call: &str, problem: impl Into<String>) -> Self {
        Self::Call { call: call.to_owned(), problem: problem.into() }
    }

    pub(crate) fn no_tensor(name: &str) -> Self {
        Self::tensor(name, "there is no such tensor")
    }

    pub(crate) fn no_row(name: &str, row: u64, rows: u64) -> Self {
        Self::tensor(name, format!("there is no row {row}: it has {rows}"))
    }

    /// All that does not fit in a saved state, if anything does not.
    pub(crate) fn of_state(problems: Vec<String>) -> Result<()> {
        if problems.is_empty() { Ok(()) } else { Err(Self::State(problems.join("; "))) }
    }
}

fn why_late(busy: bool) -> &'static str {
    match busy {
        true => {
            "the device is still at work on what was submitted to its queue; Gpu::set_timeout makes calls wait longer"
        }
        false => "the device has nothing left to do: an encoder was not submitted, or the driver stalls",
    }
}

impl OptionError {
    /// The error with the table it stands in.
    pub(crate) fn within(self, table: impl Into<String>) -> Error {
        Error::Option { table: table.into(), source: self }
    }
}
