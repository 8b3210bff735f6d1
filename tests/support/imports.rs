//! The imports between the source files, read from the text.
//!
//! Each path is resolved to the deepest module that has a file. The search handles `super::`, `self::` and
//! `crate::` paths, groups in braces, and paths that start with a child module. The search skips test
//! modules.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The path of a module, from the crate's root: `["relay", "settings"]`.
pub(crate) type Module = Vec<String>;

/// The modules with a file, and the imports of each.
#[derive(Debug, Default)]
pub(crate) struct Imports(BTreeMap<Module, BTreeSet<Module>>);

impl Imports {
    /// Reads every file below `src`.
    pub(crate) fn of_sources() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        collect(&root, &mut Vec::new(), &mut files);
        Self::of_files(&files)
    }

    /// Reads these files. Each comes with the path of its module.
    pub(crate) fn of_files(files: &[(Module, String)]) -> Self {
        let modules: BTreeSet<Module> = files.iter().map(|(module, _)| module.clone()).collect();
        let mut imports = BTreeMap::new();
        for (module, text) in files {
            let code = code_without_tests(text);
            let mut imported: BTreeSet<Module> = paths(&code, module, &modules)
                .iter()
                .filter_map(|path| deepest(path, &modules))
                .collect();
            imported.remove(module);
            imports.insert(module.clone(), imported);
        }
        Self(imports)
    }

    /// Returns the imports between files of one top-level module, as pairs of importer and
    /// imported.
    pub(crate) fn within(&self, module: &str) -> Vec<(&Module, &Module)> {
        let is_inside = |path: &Module| path.first().is_some_and(|first| first == module);
        let importers = self.0.iter().filter(|(importer, _)| is_inside(importer));
        importers
            .flat_map(|(importer, imported)| imported.iter().map(move |one| (importer, one)))
            .filter(|(_, imported)| is_inside(imported))
            .collect()
    }

    /// Returns a cycle of imports between files of one top-level module, if there is one. Its last
    /// file imports its first.
    pub(crate) fn cycle_within(&self, module: &str) -> Option<Vec<String>> {
        let mut edges: BTreeMap<&Module, Vec<&Module>> = BTreeMap::new();
        for (importer, imported) in self.within(module) {
            edges.entry(importer).or_default().push(imported);
        }
        let mut finished = BTreeSet::new();
        edges.keys().find_map(|start| {
            let cycle = find_cycle_from(start, &edges, &mut Vec::new(), &mut finished)?;
            Some(cycle.iter().map(|module| module.join("::")).collect())
        })
    }
}

/// Collects the files with the paths of their modules, without crate roots and test files.
fn collect(folder: &Path, module: &mut Module, files: &mut Vec<(Module, String)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        if path.is_dir() {
            module.push(name.into_owned());
            collect(&path, module, files);
            module.pop();
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let mut file = module.clone();
            match &*name {
                "tests" => continue,
                "lib" | "main" if module.is_empty() => continue,
                "mod" => {}
                _ => file.push(name.into_owned()),
            }
            let text = fs::read_to_string(&path).expect("text");
            files.push((file, text));
        }
    }
}

/// Returns the code without comments, single-line strings and inline test modules.
fn code_without_tests(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let next = lines.peek().copied().unwrap_or_default();
        if line == "#[cfg(test)]" && next.starts_with("mod ") && next.ends_with('{') {
            lines.by_ref().find(|line| *line == "}");
        } else if !line.trim_start().starts_with("//") {
            let outside = line.split('"').step_by(2);
            outside.for_each(|part| code.push_str(part));
            code.push('\n');
        }
    }
    code
}

/// Returns every path in the code that starts with `crate`, `super`, `self` or a child module.
fn paths(code: &str, module: &Module, modules: &BTreeSet<Module>) -> Vec<Module> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("::") {
        let first_at = code[..at].trim_end_matches(is_name).len();
        let before = &code[..first_at];
        // Skips the middle of a path, and a visibility such as `pub(in crate::relay)`.
        if before.ends_with("::") || before.ends_with("pub(in ") {
            continue;
        }
        let mut start = match &code[first_at..at] {
            "crate" => Module::new(),
            "self" => module.clone(),
            "super" => parent(module),
            name => {
                let mut child = module.clone();
                child.push(name.to_owned());
                if !modules.contains(&child) {
                    continue;
                }
                child
            }
        };
        let mut remaining = &code[at + 2..];
        while let Some(after_super) = remaining.strip_prefix("super::") {
            start = parent(&start);
            remaining = after_super;
        }
        branches(remaining, &start, &mut found);
    }
    found
}

/// Follows a path, and each branch of a group in braces. Returns the text after the path.
fn branches<'a>(text: &'a str, start: &Module, found: &mut Vec<Module>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut group) = text.strip_prefix('{') {
        loop {
            group = branches(group, start, found);
            // A branch ends with a comma, the end of the group, or `as` and a name.
            let end = group.find([',', '}']).unwrap_or(group.len());
            group = &group[end..];
            match group.strip_prefix(',') {
                Some(next) if !next.trim_start().starts_with('}') => group = next,
                Some(next) => return next.trim_start().strip_prefix('}').unwrap_or_default(),
                None => return group.strip_prefix('}').unwrap_or_default(),
            }
        }
    }
    let end = text.find(|character| !is_name(character));
    let end = end.unwrap_or(text.len());
    let (name, remaining) = text.split_at(end);
    let mut path = start.clone();
    if !name.is_empty() && name != "self" {
        path.push(name.to_owned());
    }
    match remaining.strip_prefix("::") {
        Some(remaining) if !name.is_empty() => branches(remaining, &path, found),
        _ => {
            found.push(path);
            remaining
        }
    }
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn parent(module: &Module) -> Module {
    module
        .split_last()
        .map_or_else(Module::new, |(_, parent)| parent.to_vec())
}

/// Returns the deepest module on the path that has a file.
fn deepest(path: &Module, modules: &BTreeSet<Module>) -> Option<Module> {
    let prefixes = (1..=path.len()).rev().map(|length| path[..length].to_vec());
    prefixes.into_iter().find(|prefix| modules.contains(prefix))
}

/// Searches for a cycle, depth first. `path` holds the files from the start to this one.
fn find_cycle_from<'a>(
    module: &'a Module,
    edges: &BTreeMap<&'a Module, Vec<&'a Module>>,
    path: &mut Vec<&'a Module>,
    finished: &mut BTreeSet<&'a Module>,
) -> Option<Vec<&'a Module>> {
    if let Some(at) = path.iter().position(|visited| *visited == module) {
        return Some(path[at..].to_vec());
    }
    if finished.contains(module) {
        return None;
    }
    path.push(module);
    for imported in edges.get(module).into_iter().flatten() {
        let cycle = find_cycle_from(imported, edges, path, finished);
        if cycle.is_some() {
            return cycle;
        }
    }
    path.pop();
    finished.insert(module);
    None
}

fn files(texts: &[(&str, &str)]) -> Vec<(Module, String)> {
    let module = |path: &str| path.split("::").map(str::to_owned).collect();
    texts
        .iter()
        .map(|(path, text)| (module(path), (*text).to_owned()))
        .collect()
}

#[test]
fn resolves_every_form_of_import() {
    let a = "
        pub(in crate::m::b::deep) struct A;
        use super::{b::deep::Thing as Other, c::{self, C}};
        use std::sync::{Arc, Mutex};
        use crate::other::Other;
        /// See [`super::e`].
        fn a() { crate::m::d::run(\"super::e::x\"); }
";
    let b = "mod deep;\nuse deep::Thing;\n#[cfg(test)]\nmod tests {\n    use super::super::e;\n}\n";
    let deep = "pub(super) use super::super::d::D;\nuse self::x::Y;\n";
    let imports = Imports::of_files(&files(&[
        ("m", "mod a;\nfn m() { a::run(); }"),
        ("m::a", a),
        ("m::b", b),
        ("m::b::deep", deep),
        ("m::c", "use super::Constant;"),
        ("m::d", ""),
        ("m::e", ""),
        ("other", ""),
    ]));

    let within = imports.within("m");
    let arrows: Vec<String> = within
        .iter()
        .map(|(importer, imported)| format!("{} -> {}", importer.join("::"), imported.join("::")))
        .collect();

    assert_eq!(
        arrows,
        [
            "m -> m::a",
            "m::a -> m::b::deep",
            "m::a -> m::c",
            "m::a -> m::d",
            "m::b -> m::b::deep",
            "m::b::deep -> m::d",
            "m::c -> m",
        ]
    );
}

#[test]
fn finds_import_cycle() {
    let line = [
        ("m", "use a::A;"),
        ("m::a", "use super::b::B;"),
        ("m::b", "use super::c::C;"),
        ("m::c", ""),
    ];
    let mut closed = line;
    closed[3].1 = "use crate::m::a::A;";

    assert_eq!(Imports::of_files(&files(&line)).cycle_within("m"), None);
    assert_eq!(
        Imports::of_files(&files(&closed)).cycle_within("m"),
        Some(["m::a", "m::b", "m::c"].map(str::to_owned).to_vec())
    );
}
