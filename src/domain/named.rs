//! Enums whose variants have names.

/// Declares an enum with `ALL`, `name` and `from_name`. Each variant is followed by its name in tables, settings, payloads and
/// commands.
macro_rules! named_enum {
    ($(#[$attribute:meta])* $visibility:vis enum $name:ident {
        $($(#[$variant_attribute:meta])* $variant:ident = $name_text:literal,)*
    }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $visibility enum $name {
            $($(#[$variant_attribute])* $variant,)*
        }

        impl $name {
            /// Every variant, in the order of declaration.
            $visibility const ALL: [Self; [$($name_text),*].len()] = [$(Self::$variant),*];

            /// Returns the variant's name.
            #[must_use]
            $visibility fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name_text,)*
                }
            }

            /// Returns the variant with this name.
            #[must_use]
            $visibility fn from_name(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|variant| variant.name() == name)
            }
        }
    };
}
pub(crate) use named_enum;
