//! Pairs as text: reading and writing each form.

use std::error::Error;
use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

use crate::args::Form;
use crate::units;

/// What takes pairs one by one.
pub type Take<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), Box<dyn Error>> + 'a;

/// A pair in JSON: as text where it is UTF-8, else in hexadecimal.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct JsonPair {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
}

impl JsonPair {
    /// The pair; without a value, for a key alone.
    pub fn new(key: &[u8], value: Option<&[u8]>) -> JsonPair {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let mut pair = JsonPair { key: text(key), ..JsonPair::default() };
        if pair.key.is_none() {
            pair.key_hex = Some(units::hex(key));
        }
        if let Some(value) = value {
            pair.value = text(value);
            if pair.value.is_none() {
                pair.value_hex = Some(units::hex(value));
            }
        }
        pair
    }

    fn decode(self) -> Option<(Vec<u8>, Vec<u8>)> {
        let bytes = |text: Option<String>, hex: Option<String>| match (text, hex) {
            (Some(text), None) => Some(text.into_bytes()),
            (None, Some(hex)) => units::from_hex(&hex),
            _ => None,
        };
        Some((bytes(self.key, self.key_hex)?, bytes(self.value, self.value_hex)?))
    }
}

/// Reads pairs of a form that is not a folder.
pub fn read(
    form: Form,
    input: &mut dyn BufRead,
    take: &mut Take<'_>,
) -> Result<(), Box<dyn Error>> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        // A quoted field may go over several lines.
        while form == Form::Csv && line.iter().filter(|byte| **byte == b'"').count() % 2 == 1 {
            if input.read_until(b'\n', &mut line)? == 0 {
                return Err(format!("row {number}: a quote is not closed").into());
            }
        }
        let row = line.strip_suffix(b"\n").unwrap_or(&line);
        let row = row.strip_suffix(b"\r").unwrap_or(row);
        if row.is_empty() && form != Form::Lines {
            continue;
        }
        let wrong = || format!("line {number} is no pair of this form");
        match form {
            Form::Lines | Form::Folder => take(row, b"")?,
            Form::Tsv => {
                let mut fields = row.splitn(2, |byte| *byte == b'\t');
                let (key, value) = (fields.next().unwrap_or_default(), fields.next());
                let value = value.ok_or_else(wrong)?;
                let pair = (unescape(key), unescape(value));
                let (Some(key), Some(value)) = pair else { return Err(wrong().into()) };
                take(&key, &value)?;
            }
            Form::Csv => {
                let fields = csv_fields(row).ok_or_else(wrong)?;
                let [key, value] = fields.as_slice() else { return Err(wrong().into()) };
                take(key, value)?;
            }
            Form::Jsonl => {
                let pair: JsonPair =
                    serde_json::from_slice(row).map_err(|error| format!("{}: {error}", wrong()))?;
                let (key, value) = pair.decode().ok_or_else(wrong)?;
                take(&key, &value)?;
            }
        }
    }
    Ok(())
}

/// Writes a pair of a form that is not a folder.
pub fn write(
    form: Form,
    out: &mut dyn Write,
    key: &[u8],
    value: &[u8],
) -> Result<(), Box<dyn Error>> {
    match form {
        Form::Lines | Form::Folder => out.write_all(key)?,
        Form::Tsv => {
            out.write_all(&escape(key))?;
            out.write_all(b"\t")?;
            out.write_all(&escape(value))?;
        }
        Form::Csv => {
            out.write_all(&csv_field(key))?;
            out.write_all(b",")?;
            out.write_all(&csv_field(value))?;
        }
        Form::Jsonl => serde_json::to_writer(&mut *out, &JsonPair::new(key, Some(value)))?,
    }
    Ok(out.write_all(b"\n")?)
}

fn escape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            byte => out.push(byte),
        }
    }
    out
}

fn unescape(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(&byte) = rest.next() {
        out.push(match byte {
            b'\\' => match rest.next()? {
                b't' => b'\t',
                b'n' => b'\n',
                b'r' => b'\r',
                b'\\' => b'\\',
                _ => return None,
            },
            byte => byte,
        });
    }
    Some(out)
}

fn csv_field(bytes: &[u8]) -> Vec<u8> {
    if !bytes.iter().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r')) {
        return bytes.to_vec();
    }
    let mut out = vec![b'"'];
    for &byte in bytes {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
    out
}

fn csv_fields(row: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut fields = Vec::new();
    let mut rest = row;
    loop {
        let mut field = Vec::new();
        if let Some(mut quoted) = rest.strip_prefix(b"\"") {
            loop {
                let end = quoted.iter().position(|byte| *byte == b'"')?;
                let (text, behind) = quoted.split_at(end);
                field.extend_from_slice(text);
                quoted = behind.get(1..)?;
                match quoted.strip_prefix(b"\"") {
                    Some(next) => {
                        field.push(b'"');
                        quoted = next;
                    }
                    None => break,
                }
            }
            rest = quoted;
        } else {
            let end = rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len());
            let (text, behind) = rest.split_at(end);
            field.extend_from_slice(text);
            rest = behind;
        }
        fields.push(field);
        match rest.strip_prefix(b",") {
            Some(next) => rest = next,
            None => return rest.is_empty().then_some(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back_from_every_form() {
        let pairs: [(&[u8], &[u8]); 5] = [
            (b"plain", b"value"),
            (b"tab\tand \\ slash", b"line\nbreak\r\n"),
            (b"comma, \"quote\"", b"\"\""),
            (b"\xff\x00not text", b""),
            ("grün".as_bytes(), b","),
        ];
        for form in [Form::Tsv, Form::Csv, Form::Jsonl] {
            let mut text = Vec::new();
            for (key, value) in pairs {
                write(form, &mut text, key, value).unwrap();
            }
            let mut found = Vec::new();
            read(form, &mut text.as_slice(), &mut |key, value| {
                found.push((key.to_vec(), value.to_vec()));
                Ok(())
            })
            .unwrap();
            let expected = pairs.map(|(key, value)| (key.to_vec(), value.to_vec()));
            assert_eq!(found, expected, "{form:?}");
        }
    }

    #[test]
    fn what_is_no_pair_is_an_error_that_names_the_line() {
        for (form, text) in [
            (Form::Tsv, "a\tb\nno tab\n"),
            (Form::Tsv, "a\tb\nbad \\x\tescape\n"),
            (Form::Csv, "a,b\nonly one\n"),
            (Form::Csv, "a,b\n\"open,b\n"),
            (Form::Jsonl, "{\"key\":\"a\",\"value\":\"b\"}\n{\"key\":1}\n"),
            (Form::Jsonl, "{\"key\":\"a\",\"value\":\"b\"}\n{\"key\":\"a\"}\n"),
        ] {
            let error = read(form, &mut text.as_bytes(), &mut |_, _| Ok(())).unwrap_err();
            assert!(error.to_string().contains('2'), "{form:?}: {error}");
        }
    }
}
