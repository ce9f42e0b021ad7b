//! Counts the lines of every file in the folder of its first argument, writes the sum into the second and reads it back.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let folders: Vec<String> = env::args().skip(1).collect();
    let mut lines = 0;
    for entry in fs::read_dir(&folders[0])? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            lines += fs::read_to_string(entry.path())?.matches('\n').count();
        }
    }
    let sum = Path::new(&folders[1]).join("rust");
    fs::write(&sum, format!("{lines}\n"))?;
    print!("{}", fs::read_to_string(&sum)?);
    Ok(())
}
