//! What an error must say.

use wgpu_optim::Error;

/// The error is about that tensor and says all of `words`.
#[track_caller]
pub fn assert_tensor(error: &Error, name: &str, words: &[&str]) {
    assert!(matches!(error, Error::Tensor { tensor, .. } if tensor == name), "{error}");
    assert_says(&error.to_string(), words);
}

#[track_caller]
pub fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
}

#[track_caller]
pub fn assert_option(error: &Error, table: &str, key: &str) {
    match error {
        Error::Option { table: t, source } => assert_eq!((t.as_str(), source.key.as_str()), (table, key), "{error}"),
        other => panic!("{other}"),
    }
}
