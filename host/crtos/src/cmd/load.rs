//! `crtos cell load`: images and strings, and where each goes.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use hypervisor_abi::config::CellConfig;

use super::cell::stop;
use crate::files;
use crate::hypervisor::Hypervisor;

/// What is written into a cell.
#[derive(Debug, PartialEq)]
enum What<'a> {
    /// What is in a file.
    File(&'a str),
    /// These bytes and a zero.
    Text(&'a str),
}

/// What, and where; without an address, where the cell's processors start.
type Piece<'a> = (What<'a>, Option<u64>);

/// Loads what the words behind the cell's name say; without any, the composed image.
pub fn load(hypervisor: &Hypervisor, cell: &str, words: &[String]) -> Result<()> {
    let pieces = parse(words)?;
    // All is read before the cell is stopped.
    let mut images = Vec::new();
    for (what, address) in pieces {
        let bytes = match what {
            What::File(path) => files::read(Path::new(path))?,
            What::Text(text) => [text.as_bytes(), b"\0"].concat(),
        };
        images.push((bytes, address.map_or_else(|| reset_address(hypervisor, cell), Ok)?));
    }
    if images.is_empty() {
        images.push(composed()?);
    }
    stop(hypervisor, cell, || hypervisor.load(cell, &images))
}

/// The composed image, and where it goes.
pub(super) fn composed() -> Result<(Vec<u8>, u64)> {
    Ok((files::read(&files::find(files::IMAGE)?)?, ipc::image::LOAD_ADDRESS))
}

fn reset_address(hypervisor: &Hypervisor, cell: &str) -> Result<u64> {
    let bytes = hypervisor.config(&hypervisor.cell(cell)?.id.to_string())?;
    let config = CellConfig::parse(&bytes).map_err(|error| anyhow!("{error}"))?;
    Ok(config.cpu_reset_address())
}

fn parse(words: &[String]) -> Result<Vec<Piece<'_>>> {
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-s" | "--string" => {
                let text = words.next().with_context(|| format!("{word} wants a string behind it"))?;
                pieces.push((What::Text(text), None));
            }
            "-a" | "--address" => {
                let address =
                    parse_address(words.next().with_context(|| format!("{word} wants an address behind it"))?)?;
                match pieces.last_mut() {
                    Some((_, place @ None)) => *place = Some(address),
                    Some(_) => bail!("two addresses for one image or string"),
                    None => bail!("{word} stands behind the image or string that it is for"),
                }
            }
            option if option.starts_with('-') => bail!("there is no option \"{option}\" behind the cell's name"),
            image => pieces.push(match image.rsplit_once('@') {
                Some((file, address)) => (What::File(file), Some(parse_address(address)?)),
                None => (What::File(image), None),
            }),
        }
    }
    // It would lie on the first instruction.
    if let Some((What::Text(text), _)) = pieces.iter().find(|piece| matches!(piece, (What::Text(_), None))) {
        bail!("where should the string \"{text}\" be? Say -a ADDRESS behind it");
    }
    Ok(pieces)
}

fn parse_address(text: &str) -> Result<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let radix = if digits.len() < text.len() { 16 } else { 10 };
    u64::from_str_radix(digits, radix).with_context(|| format!("\"{text}\" is no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn error(line: &str) -> String {
        parse(&words(line)).unwrap_err().to_string()
    }

    #[test]
    fn images_with_and_without_address() {
        assert_eq!(parse(&[]).unwrap(), []);
        assert_eq!(parse(&words("a.bin")).unwrap(), [(What::File("a.bin"), None)]);
        assert_eq!(parse(&words("a@b@0x1000")).unwrap(), [(What::File("a@b"), Some(0x1000))]);
        assert_eq!(parse(&words("a@16")).unwrap(), [(What::File("a"), Some(16))]);
        assert_eq!(parse(&words("a -a 0x10")).unwrap(), [(What::File("a"), Some(16))]);
        assert_eq!(error("a@x"), "\"x\" is no address");
    }

    #[test]
    fn several_images_and_strings_each_with_its_address() {
        let line = words("a.bin -a 0 b.bin --address 4096 -s text -a 0x1000 --string --odd -a 8 c.bin");
        let expected = [
            (What::File("a.bin"), Some(0)),
            (What::File("b.bin"), Some(4096)),
            (What::Text("text"), Some(0x1000)),
            (What::Text("--odd"), Some(8)),
            (What::File("c.bin"), None),
        ];
        assert_eq!(parse(&line).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert_eq!(error("-a 0"), "-a stands behind the image or string that it is for");
        assert_eq!(error("a@1 -a 0"), "two addresses for one image or string");
        assert_eq!(error("a -s"), "-s wants a string behind it");
        assert_eq!(error("a --address"), "--address wants an address behind it");
        assert_eq!(error("a -x"), "there is no option \"-x\" behind the cell's name");
        assert_eq!(error("a -s text b -a 1"), "where should the string \"text\" be? Say -a ADDRESS behind it");
    }
}
