//! Names of functions, for crash reports: a text file beside the image, tied to it by its build id.
//!
//! Its first line says the build id. A line `server NAME` begins a server; each line after it is a function: address, bytes, name.

use elf::ElfBytes;
use elf::abi::STT_FUNC;
use elf::endian::LittleEndian;

/// What the file's first line begins with.
const TITLE: &str = "crtos symbols 1 ";

/// A build id as text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it starts.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Its name, demangled.
    pub name: String,
}

/// The functions of a program, by address. One without a symbol table has none.
pub fn functions(program: &[u8]) -> Vec<Function> {
    let Ok(file) = ElfBytes::<LittleEndian>::minimal_parse(program) else { return Vec::new() };
    let Ok(Some((symbols, names))) = file.symbol_table() else { return Vec::new() };
    let mut functions: Vec<_> = symbols
        .iter()
        .filter(|symbol| symbol.st_symtype() == STT_FUNC && symbol.st_value != 0)
        .filter_map(|symbol| {
            let name = names.get(symbol.st_name as usize).ok()?;
            // Without the hash that tells versions of one crate apart.
            let name = format!("{:#}", rustc_demangle::demangle(name)).replace(char::is_control, "?");
            Some(Function { address: symbol.st_value, size: symbol.st_size, name })
        })
        .collect();
    functions.sort_by(|a, b| (a.address, &a.name).cmp(&(b.address, &b.name)));
    functions
}

/// The file for these servers.
pub fn to_text<'a>(build_id: &[u8], servers: impl IntoIterator<Item = (&'a str, Vec<Function>)>) -> String {
    let mut text = format!("{TITLE}{}\n", hex(build_id));
    for (server, functions) in servers {
        text.push_str(&format!("server {server}\n"));
        for Function { address, size, name } in functions {
            text.push_str(&format!("{address:x} {size:x} {name}\n"));
        }
    }
    text
}

/// The functions of one server, if the file is of that build.
pub fn of_server(text: &str, build_id: &[u8], server: &str) -> Option<Vec<Function>> {
    let mut lines = text.lines();
    if lines.next()?.strip_prefix(TITLE)? != hex(build_id) {
        return None;
    }
    let function = |line: &str| {
        let mut fields = line.splitn(3, ' ');
        let mut number = || u64::from_str_radix(fields.next()?, 16).ok();
        let (address, size) = (number()?, number()?);
        Some(Function { address, size, name: fields.next()?.to_owned() })
    };
    let own = lines.skip_while(|line| line.strip_prefix("server ") != Some(server)).skip(1);
    Some(own.take_while(|line| !line.starts_with("server ")).filter_map(function).collect())
}

/// The function that an address lies in, and how far behind its start.
pub fn find(functions: &[Function], address: u64) -> Option<(&Function, u64)> {
    let before = functions.partition_point(|function| function.address <= address);
    let function = functions.get(before.checked_sub(1)?)?;
    let offset = address - function.address;
    (offset < function.size.max(1)).then_some((function, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_back_for_its_build_alone() {
        let function = |address, name: &str| Function { address, size: 16, name: name.to_owned() };
        let a = vec![function(0x1000, "core::fmt::write"), function(0x1010, "<a as b>::c d")];
        let text = to_text(&[0xab], [("a", a.clone()), ("b", vec![function(1, "x")])]);
        assert_eq!(of_server(&text, &[0xab], "a"), Some(a.clone()));
        assert_eq!(of_server(&text, &[0xab], "b").unwrap().len(), 1);
        assert_eq!(of_server(&text, &[0xab], "c"), Some(vec![]));
        assert_eq!(of_server(&text, &[0xac], "a"), None);
        assert_eq!(find(&a, 0x101f).map(|(f, offset)| (f.name.as_str(), offset)), Some(("<a as b>::c d", 15)));
        assert_eq!(find(&a, 0x1020), None);
        assert_eq!(find(&a, 0xfff), None);
    }

    #[test]
    fn this_very_program_has_functions() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(functions(&own).iter().any(|function| function.name.contains("symbols::functions")));
        assert_eq!(functions(b"not a program"), []);
    }
}
