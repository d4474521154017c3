"""What a file is by its name: its suffix, in capitals or not; its language, under the names that GitHub's linguist
gives them, where a name that several use goes to the commonest."""

from __future__ import annotations

NAMES = {
    "Ada": ".adb .ads", "Agda": ".agda", "ANTLR": ".g4", "AppleScript": ".applescript", "AsciiDoc": ".adoc .asciidoc",
    "Assembly": ".asm .s .S .nasm", "Astro": ".astro", "AutoHotkey": ".ahk", "Awk": ".awk", "Batchfile": ".bat .cmd",
    "BibTeX": ".bib", "Bicep": ".bicep", "C": ".c .h", "C#": ".cs .csx",
    "C++": ".cpp .cc .cxx .c++ .hpp .hh .hxx .h++ .ipp .tpp .inl .ino", "Cairo": ".cairo", "Chapel": ".chpl",
    "Clojure": ".clj .cljs .cljc .edn", "CMake": ".cmake CMakeLists.txt", "COBOL": ".cob .cbl .cpy",
    "CoffeeScript": ".coffee Cakefile", "Common Lisp": ".lisp .lsp .cl .asd", "Coq": ".coq", "Crystal": ".cr",
    "CSS": ".css", "Cuda": ".cu .cuh", "Cython": ".pyx .pxd .pxi", "D": ".d .di", "Dart": ".dart", "Dhall": ".dhall",
    "Diff": ".diff .patch", "Dockerfile": ".dockerfile Dockerfile Containerfile", "Elixir": ".ex .exs", "Elm": ".elm",
    "Emacs Lisp": ".el", "Erlang": ".erl .hrl", "F#": ".fs .fsi .fsx", "F*": ".fst", "Factor": ".factor",
    "Fish": ".fish", "Fluent": ".ftl", "Forth": ".fth .4th", "Fortran": ".f .for .f77",
    "Fortran Free Form": ".f90 .f95 .f03 .f08", "GAP": ".gap .gi", "GDScript": ".gd", "Gherkin": ".feature",
    "Gleam": ".gleam", "GLSL": ".glsl .vert .frag .geom .comp", "Go": ".go", "Go Module": "go.mod", "Gradle": ".gradle",
    "GraphQL": ".graphql .gql", "Groovy": ".groovy .gvy Jenkinsfile", "Hack": ".hack .hhi",
    "Handlebars": ".hbs .handlebars", "Haskell": ".hs .hsc", "Haxe": ".hx", "HCL": ".hcl .tf .tfvars .nomad",
    "HLSL": ".hlsl .hlsli", "HTML": ".html .htm .xhtml", "Idris": ".idr", "INI": ".ini .cfg", "Isabelle": ".thy",
    "Java": ".java", "JavaScript": ".js .mjs .cjs .jsx", "Jinja": ".j2 .jinja .jinja2", "JSON": ".json .jsonc .json5",
    "Jsonnet": ".jsonnet .libsonnet", "Julia": ".jl", "Jupyter Notebook": ".ipynb",
    "Just": ".just justfile Justfile", "Kotlin": ".kt .kts",
    "Lean": ".lean", "Less": ".less", "Literate Haskell": ".lhs", "LLVM": ".ll", "Lua": ".lua",
    "M4": ".m4 configure.ac", "Makefile": ".mk .mak Makefile makefile GNUmakefile",
    "Markdown": ".md .markdown .mkd .mdx", "Mathematica": ".wl .wls", "Mermaid": ".mmd",
    "Meson": "meson.build meson_options.txt", "Metal": ".metal", "MLIR": ".mlir", "Mojo": ".mojo", "Nextflow": ".nf",
    "Nim": ".nim .nims", "Ninja": ".ninja", "Nix": ".nix", "Objective-C": ".m", "Objective-C++": ".mm",
    "OCaml": ".ml .mli .mll .mly", "Odin": ".odin", "OpenCL": ".opencl", "Org": ".org", "Pascal": ".pas .pp .lpr .dpr",
    "Perl": ".pl .pm .t", "PHP": ".php .phtml", "PowerShell": ".ps1 .psm1 .psd1", "Prolog": ".pro .prolog",
    "Protocol Buffer": ".proto", "Pug": ".pug", "Puppet": ".epp", "PureScript": ".purs",
    "Python": ".py .pyi .pyw SConstruct SConscript wscript", "QML": ".qml", "R": ".r .R", "Racket": ".rkt",
    "Raku": ".raku .rakumod", "reStructuredText": ".rst", "RMarkdown": ".Rmd .qmd", "Roff": ".1 .3 .5 .7 .8 .man",
    "Ruby": ".rb .rake .gemspec .ru Rakefile Gemfile Vagrantfile Podfile Brewfile", "Rust": ".rs", "Sass": ".sass",
    "Scala": ".scala .sc .sbt", "Scheme": ".scm .ss .sld", "SCSS": ".scss", "Shell": ".sh .bash .zsh .ksh .bats",
    "Smalltalk": ".st", "SMT": ".smt2", "Solidity": ".sol", "SQL": ".sql .ddl .dml", "Standard ML": ".sml .sig .fun",
    "Starlark": ".bzl .bazel .star BUILD WORKSPACE", "Stata": ".do .ado", "Stylus": ".styl", "Svelte": ".svelte",
    "Swift": ".swift", "SystemVerilog": ".sv .svh", "Tcl": ".tcl .tk", "TeX": ".tex .sty .cls .ltx",
    "Texinfo": ".texi .texinfo", "Text": ".txt README NEWS CHANGES ChangeLog AUTHORS INSTALL HACKING TODO",
    "Thrift": ".thrift", "TOML": ".toml", "TSX": ".tsx", "Twig": ".twig", "TypeScript": ".ts .mts .cts",
    "Typst": ".typ", "Vala": ".vala .vapi", "VBScript": ".vbs", "Verilog": ".v .vh", "VHDL": ".vhd .vhdl",
    "Vim Script": ".vim .vimrc", "Visual Basic .NET": ".vb", "Vue": ".vue", "WebAssembly": ".wat .wast",
    "WGSL": ".wgsl", "XML": ".xml .xsd .xsl .xslt .svg", "YAML": ".yml .yaml", "Zig": ".zig",
}  # fmt: skip
LANGUAGES = {name: language for language, names in NAMES.items() for name in names.split()}


def has_suffix(name: str, suffixes: str | tuple[str, ...]) -> bool:
    """Whether a name ends in (one of) the suffixes; capitals are no difference: cameras and old systems write them."""
    return name.lower().endswith(suffixes.lower() if isinstance(suffixes, str) else tuple(map(str.lower, suffixes)))


def language_of(place: str) -> str | None:
    """The language of a file by its whole name, else by what follows the last dot; None for names that say nothing."""
    name = place.rpartition("/")[2].removesuffix(".in")
    suffix = "." + name.rpartition(".")[2]
    whole = LANGUAGES.get(name)
    return whole or LANGUAGES.get(suffix) or LANGUAGES.get(suffix.lower()) if "." in name else whole
