//! Counts the words of stdin and writes "COUNT WORD" lines, most frequent first. Its HashMap seeds itself with
//! random_get, as every Rust program's does. Arguments, if any, are the only words counted; exit code 1 if none occurs.

use std::collections::HashMap;
use std::io::{self, Read, Write};

fn main() -> io::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let mut tally: HashMap<&str, usize> = HashMap::new();
    for word in text.split_whitespace() {
        if wanted.is_empty() || wanted.iter().any(|w| w == word) {
            *tally.entry(word).or_insert(0) += 1;
        }
    }
    let mut rows: Vec<(&str, usize)> = tally.into_iter().collect();
    rows.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let mut out = Vec::new();
    for (word, count) in &rows {
        writeln!(out, "{count} {word}")?;
    }
    io::stdout().write_all(&out)?;
    if rows.is_empty() && !wanted.is_empty() {
        std::process::exit(1);
    }
    Ok(())
}
