//! The bytes of a safetensors file: the same for the same contents, where the crate that reads them writes metadata in
//! the order of a hash map.

use std::collections::BTreeMap;

use safetensors::tensor::View;

use crate::error::{Error, Result};
use crate::plan::METADATA;

/// A longer header nobody reads.
const LONGEST_HEADER: usize = 100_000_000;

/// A file of those tensors by name, with that metadata. The longest words come first, then names decide.
///
/// # Errors
/// A name is given twice or is the metadata's, bytes do not fit a shape, or the header would be longer than anything
/// reads.
pub fn serialize<'n, V: View>(
    tensors: impl IntoIterator<Item = (&'n str, V)>,
    metadata: Option<&BTreeMap<String, String>>,
) -> Result<Vec<u8>> {
    let invalid = |problem: String| Err(Error::Safetensors(problem));
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    tensors.sort_by(|(a, left), (b, right)| right.dtype().cmp(&left.dtype()).then(a.cmp(b)));
    let mut header = String::from("{");
    let mut known = std::collections::HashSet::from([METADATA]);
    if let Some(metadata) = metadata {
        quote(&mut header, METADATA);
        header.push_str(":{");
        for (key, value) in metadata {
            quote(&mut header, key);
            header.push(':');
            quote(&mut header, value);
            header.push(',');
        }
        end(&mut header, '}');
        header.push(',');
    }
    let mut at = 0;
    for (name, tensor) in &tensors {
        if !known.insert(name) {
            return invalid(format!("{name:?} is the name of two entries"));
        }
        let (shape, dtype, len) = (tensor.shape(), tensor.dtype(), tensor.data_len());
        let bits = shape.iter().try_fold(dtype.bitsize(), |bits, n| bits.checked_mul(*n));
        if bits.map(|bits| bits.div_ceil(8)) != Some(len) {
            return invalid(format!("{name:?} has {len} bytes, which its shape {shape:?} in {dtype} does not take"));
        }
        quote(&mut header, name);
        let end = at + len;
        let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        header.push_str(&format!(":{{\"dtype\":\"{dtype}\",\"shape\":[{shape}],\"data_offsets\":[{at},{end}]}},"));
        at = end;
    }
    end(&mut header, '}');
    // So that what follows is aligned.
    let padded = header.len().next_multiple_of(8);
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    if padded > LONGEST_HEADER {
        let problem =
            format!("the names and the metadata take {padded} bytes, more than {LONGEST_HEADER} cannot be read");
        return invalid(problem);
    }
    let mut bytes = Vec::with_capacity(8 + padded + at);
    bytes.extend((padded as u64).to_le_bytes());
    bytes.extend(header.into_bytes());
    tensors.iter().for_each(|(_, tensor)| bytes.extend_from_slice(&tensor.data()));
    Ok(bytes)
}

/// Ends a list in the place of its last comma.
fn end(header: &mut String, with: char) {
    if header.ends_with(',') {
        header.pop();
    }
    header.push(with);
}

/// A string of JSON.
fn quote(header: &mut String, text: &str) {
    header.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => header.extend(['\\', c]),
            '\0'..='\x1f' => header.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => header.push(c),
        }
    }
    header.push('"');
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;
    use safetensors::tensor::{Dtype, TensorView};

    use super::*;

    fn view(dtype: Dtype, shape: &[usize], bytes: &'static [u8]) -> TensorView<'static> {
        TensorView::new(dtype, shape.to_vec(), bytes).unwrap()
    }

    #[test]
    fn what_is_written_is_read_whatever_it_is_called() {
        let odd =
            ["", " ", "\"", "\\", "\\\"", "a\nb\t\0\u{1f}\u{7f}", "schön", "\u{2028}", "🦀", "{", "a.b", "\\u0041"];
        let tensors = || odd.iter().map(|name| (*name, view(Dtype::F32, &[1], &[1, 2, 3, 4])));
        let metadata: BTreeMap<_, _> = odd.iter().map(|text| ((*text).to_owned(), (*text).to_owned())).collect();
        let bytes = serialize(tensors(), Some(&metadata)).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.names().len(), odd.len());
        odd.iter().for_each(|name| assert_eq!(read.tensor(name).unwrap().data(), [1, 2, 3, 4], "{name:?}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().clone().unwrap().into_iter().collect::<BTreeMap<_, _>>(), metadata);
        for metadata in [None, Some(&BTreeMap::new())] {
            assert!(SafeTensors::deserialize(&serialize(tensors(), metadata).unwrap()).is_ok());
            let none: [(&str, TensorView<'_>); 0] = [];
            assert!(SafeTensors::deserialize(&serialize(none, metadata).unwrap()).is_ok());
        }
    }

    /// To the byte as the crate writes them, where it has only one way to.
    #[test]
    fn bytes_are_those_of_the_crate() {
        let tensors = || {
            [
                ("b", view(Dtype::U8, &[3], &[1, 2, 3])),
                ("a", view(Dtype::F32, &[1, 2], &[0; 8])),
                ("h", view(Dtype::BF16, &[], &[7, 8])),
                ("none", view(Dtype::F32, &[0, 5], &[])),
            ]
        };
        let metadata = std::collections::HashMap::from([("k".to_owned(), "v\u{1}\\ \"ö\"".to_owned())]);
        let theirs = safetensors::serialize(tensors(), Some(metadata.clone())).unwrap();
        assert_eq!(serialize(tensors(), Some(&metadata.into_iter().collect())).unwrap(), theirs);
        assert_eq!(serialize(tensors(), None).unwrap(), safetensors::serialize(tensors(), None).unwrap());
    }

    #[test]
    fn what_could_not_be_read_is_not_written() {
        let one = || view(Dtype::F32, &[1], &[0; 4]);
        let says = |outcome: Result<Vec<u8>>, words: &str| {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(words), "{error:?} does not say {words:?}");
        };
        says(serialize([("w", one()), ("w", one())], None), "two entries");
        says(serialize([(METADATA, one())], None), METADATA);
        let long = BTreeMap::from([("key".to_owned(), "x".repeat(LONGEST_HEADER))]);
        says(serialize([("w", one())], Some(&long)), "cannot be read");
    }
}
