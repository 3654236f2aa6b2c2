use std::fmt;

use crate::Error;

/// A step that was not taken, and the module, which is as it was. `?` makes it the [`Error`] alone, where the module is of
/// no use any more.
pub struct Refused<M> {
    /// Why.
    pub error: Error,
    /// With all its parameters. Those that clones share may be in memory of their own by now.
    pub module: M,
}

impl<M> From<Refused<M>> for Error {
    fn from(refused: Refused<M>) -> Self {
        refused.error
    }
}

impl<M> fmt::Debug for Refused<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<M> fmt::Display for Refused<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<M> std::error::Error for Refused<M> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}
