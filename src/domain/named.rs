//! Enums whose variants have words.

/// Declares an enum with `ALL`, `name` and `named`. After each variant stands its word in tables, settings, messages and commands.
macro_rules! named_enum {
    ($(#[$attribute:meta])* $visibility:vis enum $name:ident {
        $($(#[$variant_attribute:meta])* $variant:ident = $word:literal,)*
    }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $visibility enum $name {
            $($(#[$variant_attribute])* $variant,)*
        }

        impl $name {
            /// Every variant, in the order of their declaration.
            $visibility const ALL: [Self; [$($word),*].len()] = [$(Self::$variant),*];

            /// Returns the variant's word.
            #[must_use]
            $visibility fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// Returns the variant with this word.
            #[must_use]
            $visibility fn named(word: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|variant| variant.name() == word)
            }
        }
    };
}
pub(crate) use named_enum;
