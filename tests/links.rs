//! The links of the documentation. Every relative link and anchor leads somewhere, and the book has
//! every page.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{BrokenLink, CowStr, Event, LinkType, Options, Parser, Tag, TagEnd};

/// The pages outside the book.
const TOP_LEVEL: [&str; 4] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
];

/// The folder of the book's pages.
const BOOK: &str = "docs/src";

/// The book's table of contents.
const SUMMARY: &str = "docs/src/SUMMARY.md";

/// A page's links, and the anchors that others can link to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    links: Vec<String>,
    anchors: BTreeSet<String>,
    /// The texts of reference links without a definition.
    undefined: Vec<String>,
}

impl Page {
    fn parse(text: &str) -> Self {
        let mut undefined = Vec::new();
        // Only `[text][name]` and `[name][]` are certain to be meant as links.
        let callback = |link: BrokenLink<'_>| {
            let is_link = matches!(link.link_type, LinkType::Reference | LinkType::Collapsed);
            if is_link {
                undefined.push(link.reference.to_string());
            }
            None::<(CowStr<'_>, CowStr<'_>)>
        };
        let options = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES;
        let parser = Parser::new_with_broken_link_callback(text, options, Some(callback));

        let mut page = Self::default();
        let mut heading: Option<String> = None;
        for event in parser {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let text = heading.take().unwrap_or_default();
                    page.add_anchor(&slug(&text));
                }
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.into_string());
                }
                _ => {}
            }
        }
        page.undefined = undefined;
        page
    }

    /// Adds an anchor. A second heading with the same words gets a number, on GitHub and in mdBook.
    fn add_anchor(&mut self, slug: &str) {
        let numbered = (1..).map(|number| format!("{slug}-{number}"));
        let mut candidates = std::iter::once(slug.to_owned()).chain(numbered);
        let free = candidates.find(|candidate| !self.anchors.contains(candidate));
        self.anchors.extend(free);
    }
}

/// Returns the anchor of a heading.
fn slug(heading: &str) -> String {
    let lower = heading.trim().to_lowercase();
    let kept = lower.chars().filter_map(|character| match character {
        ' ' => Some('-'),
        '-' | '_' => Some(character),
        _ => character.is_alphanumeric().then_some(character),
    });
    kept.collect()
}

/// The files of this repository, or of one that a test makes.
struct Files {
    root: PathBuf,
    pages: BTreeMap<PathBuf, Page>,
}

impl Files {
    /// Reads the pages below this folder.
    fn read(root: &Path) -> Self {
        let mut paths: Vec<PathBuf> = TOP_LEVEL.map(PathBuf::from).to_vec();
        paths.retain(|path| root.join(path).is_file());
        collect_pages(root, Path::new(BOOK), &mut paths);
        let read = |path: PathBuf| {
            let text = fs::read_to_string(root.join(&path)).expect("a page is text");
            let page = Page::parse(&text);
            (path, page)
        };
        Self {
            root: root.to_owned(),
            pages: paths.into_iter().map(read).collect(),
        }
    }

    /// Returns a line for each link that leads nowhere.
    fn broken_links(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (path, page) in &self.pages {
            let undefined = page.undefined.iter();
            broken.extend(
                undefined.map(|name| format!("{}: [{name}] is not defined", path.display())),
            );
            for link in &page.links {
                if let Err(problem) = self.check(path, link) {
                    broken.push(format!("{}: {link}: {problem}", path.display()));
                }
            }
        }
        broken
    }

    fn check(&self, path: &Path, link: &str) -> Result<(), &'static str> {
        let is_external = ["https://", "http://", "mailto:"]
            .iter()
            .any(|scheme| link.starts_with(scheme));
        if is_external {
            return Ok(());
        }
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = if file.is_empty() {
            path.to_owned()
        } else {
            resolve(path, file).ok_or("leads out of the repository")?
        };
        if path.starts_with(BOOK) && !target.starts_with(BOOK) {
            return Err("leads out of the book");
        }
        if !self.root.join(&target).exists() {
            return Err("there is no such file");
        }
        if anchor.is_empty() {
            return Ok(());
        }
        let page = self.pages.get(&target).ok_or("only pages have anchors")?;
        if page.anchors.contains(anchor) {
            Ok(())
        } else {
            Err("the page has no such heading")
        }
    }

    /// Returns a line for each page that is not in the book's table of contents exactly once.
    fn unlisted_pages(&self) -> Vec<String> {
        let summary = Path::new(SUMMARY);
        let links = self.pages.get(summary).map(|page| &page.links);
        let listed: Vec<PathBuf> = links
            .into_iter()
            .flatten()
            .filter_map(|link| resolve(summary, link))
            .collect();
        let is_in_book = |path: &&PathBuf| path.starts_with(BOOK) && path.as_path() != summary;
        let pages = self.pages.keys().filter(is_in_book);
        let counted = pages.map(|page| (page, listed.iter().filter(|one| *one == page).count()));
        counted
            .filter(|(_, count)| *count != 1)
            .map(|(page, count)| format!("{}: {count} times in SUMMARY.md", page.display()))
            .collect()
    }
}

/// Collects the Markdown files below a folder, as paths from the root.
fn collect_pages(root: &Path, folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root.join(folder)).expect("a folder") {
        let path = folder.join(entry.expect("an entry").file_name());
        if root.join(&path).is_dir() {
            collect_pages(root, &path, paths);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
}

/// Resolves a link of a page. Returns a path from the root, or nothing if the link leads out of the
/// root.
fn resolve(page: &Path, link: &str) -> Option<PathBuf> {
    let mut resolved = page.parent()?.to_owned();
    for component in Path::new(link).components() {
        match component {
            Component::Normal(name) => resolved.push(name),
            Component::ParentDir => {
                if !resolved.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(resolved)
}

#[test]
fn every_link_leads_somewhere() {
    let files = Files::read(Path::new(env!("CARGO_MANIFEST_DIR")));

    assert!(files.pages.len() > 40, "the pages were found");
    let broken = files.broken_links();
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn summary_lists_every_page_once() {
    let files = Files::read(Path::new(env!("CARGO_MANIFEST_DIR")));

    let unlisted = files.unlisted_pages();
    assert!(unlisted.is_empty(), "{}", unlisted.join("\n"));
}

#[test]
fn broken_links_are_found() {
    let sample = "# A page\n\n## Two `words`, here\n\n[a](#two-words-here) [b](#two) [c](missing.md)\n\
        [d](page.md#a-page) [e](page.md#b-page) [f](../../README.md) [g](../../../x) [h][undefined] [not a link]\n\
        [i](https://example.com) ![j](missing.svg)\n";
    let folder = tempfile::TempDir::new().expect("a folder");
    let book = folder.path().join(BOOK);
    fs::create_dir_all(&book).expect("a folder");
    fs::write(folder.path().join("README.md"), "").expect("a file");
    fs::write(book.join("page.md"), sample).expect("a file");
    fs::write(
        book.join("SUMMARY.md"),
        "[Page](page.md) [Missing](missing.md)",
    )
    .expect("a file");
    fs::write(book.join("other.md"), "").expect("a file");

    let files = Files::read(folder.path());

    assert_eq!(
        files.broken_links(),
        [
            "docs/src/SUMMARY.md: missing.md: there is no such file",
            "docs/src/page.md: [undefined] is not defined",
            "docs/src/page.md: #two: the page has no such heading",
            "docs/src/page.md: missing.md: there is no such file",
            "docs/src/page.md: page.md#b-page: the page has no such heading",
            "docs/src/page.md: ../../README.md: leads out of the book",
            "docs/src/page.md: ../../../x: leads out of the repository",
            "docs/src/page.md: missing.svg: there is no such file",
        ]
    );
    assert_eq!(
        files.unlisted_pages(),
        ["docs/src/other.md: 0 times in SUMMARY.md"]
    );
}

#[test]
fn equal_headings_get_numbers() {
    let page = Page::parse("# Same\n\n## Same\n\n### `relay.on_failure`: what, why\n");

    let anchors: Vec<&str> = page.anchors.iter().map(String::as_str).collect();
    assert_eq!(anchors, ["relayon_failure-what-why", "same", "same-1"]);
}
