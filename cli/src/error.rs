use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

/// Why a command ends early, and the exit code that says so.
#[derive(Debug)]
pub struct Error {
    code: u8,
    message: String,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A check failed or a run went wrong.
    pub fn failed(message: impl Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// What the user gave cannot be used.
    pub fn input(message: impl Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// The user wants to stop.
    pub fn interrupted(code: u8) -> Self {
        Self { code, message: "interrupted".to_owned() }
    }

    /// The same error, and what more there is to say of it.
    pub fn with(self, more: impl Display) -> Self {
        Self { message: format!("{}: {more}", self.message), ..self }
    }

    /// A file that cannot be used.
    pub fn file(path: &Path, problem: impl Display) -> Self {
        Self::input(format!("{}: {problem}", path.display()))
    }

    /// The same error, said of a file.
    pub fn about(self, path: &Path) -> Self {
        Self { message: format!("{}: {}", path.display(), self.message), ..self }
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl Display for Error {
    /// Always one line, also where a driver or a compiler has more to say.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines: Vec<_> = self.message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        f.write_str(&lines.join(" "))
    }
}

impl From<wgpu_optim::Error> for Error {
    fn from(error: wgpu_optim::Error) -> Self {
        use wgpu_optim::Error as E;
        match error {
            E::Option { .. }
            | E::Limit { .. }
            | E::UnknownRule { .. }
            | E::Group { .. }
            | E::Tensor { .. }
            | E::State(_)
            | E::Safetensors(_)
            | E::File { .. } => Self::input(error),
            _ => Self::failed(error),
        }
    }
}
