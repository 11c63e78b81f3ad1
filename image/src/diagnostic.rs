//! What is wrong, where, between whom, and what to do about it.

use std::fmt;
use std::ops::Range;

use crate::manifest::Source;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// File; empty if the finding is not about a file.
    pub file: String,
    /// Line, from 1; 0 if the finding is about the file as a whole.
    pub line: usize,
    /// What is wrong: a sentence that names the parties.
    pub message: String,
    /// What to do: a sentence in the imperative.
    pub cure: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.file.is_empty(), self.line) {
            (true, _) => write!(f, "{}", self.message)?,
            (false, 0) => write!(f, "{}: {}", self.file, self.message)?,
            (false, line) => write!(f, "{}:{line}: {}", self.file, self.message)?,
        }
        if self.cure.is_empty() { Ok(()) } else { write!(f, "; {}", self.cure) }
    }
}

/// All findings, in the order of the lines they are about. Never empty as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl Diagnostics {
    /// A finding about something that is not a manifest.
    pub fn of(file: impl Into<String>, message: impl Into<String>, cure: impl Into<String>) -> Self {
        Diagnostic { file: file.into(), line: 0, message: message.into(), cure: cure.into() }.into()
    }
}

/// Collects findings about one manifest.
#[derive(Debug)]
pub struct Findings<'a> {
    source: &'a Source,
    found: Vec<Diagnostic>,
}

impl<'a> Findings<'a> {
    /// None so far.
    pub fn new(source: &'a Source) -> Self {
        Self { source, found: Vec::new() }
    }

    /// Adds one about the text at `span`.
    pub fn add(&mut self, span: Range<usize>, message: impl Into<String>, cure: impl Into<String>) {
        let diagnostic = Diagnostic {
            file: self.source.name.clone(),
            line: self.source.line(span.start),
            message: message.into(),
            cure: cure.into(),
        };
        if !self.found.contains(&diagnostic) {
            self.found.push(diagnostic);
        }
    }

    /// The line that `span` begins in.
    pub fn line(&self, span: Range<usize>) -> usize {
        self.source.line(span.start)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The findings, in the order of their lines.
    pub fn into_diagnostics(mut self) -> Diagnostics {
        self.found.sort_by_key(|d| d.line);
        Diagnostics(self.found)
    }

    /// `value` if there are no findings, else the findings.
    pub fn into_result<T>(self, value: T) -> Result<T, Diagnostics> {
        if self.found.is_empty() { Ok(value) } else { Err(self.into_diagnostics()) }
    }
}
