"""The words of the viewer's pages, in each language that they speak."""

from __future__ import annotations

WORDS: dict[str, tuple[str, str]] = {
    "viewer_title": ("Images", "Obrazy"),
    "viewer_missing_title": ("There is nothing to show here", "Nie ma tu nic do pokazania"),
    "viewer_hidden": ("There are no images here that you may see.", "Nie ma tu obrazów, do których masz dostęp."),
    "viewer_waiting": (
        "The images have not arrived yet. Open this page again when they have been sent.",
        "Obrazy jeszcze nie dotarły. Otwórz tę stronę ponownie, gdy zostaną przesłane.",
    ),
    "viewer_code": (
        "This link was used already, or is older than a minute. Open the images again where you came from.",
        "Ten odnośnik został już użyty lub ma więcej niż minutę. Otwórz obrazy ponownie tam, skąd przychodzisz.",
    ),
    "viewer_absent": (
        "The diagnostic viewer is not installed on this server. Images open as plain pages.",
        "Przeglądarka diagnostyczna nie jest zainstalowana na tym serwerze. Obrazy otwierają się jako zwykłe strony.",
    ),
    "viewer_root": (
        "Open the images from an order, a study or a report.",
        "Obrazy otwiera się ze zlecenia, badania lub opisu.",
    ),
    "viewer_full": ("Diagnostic viewer", "Przeglądarka diagnostyczna"),
    "viewer_preview": (
        "Compressed images for orientation, not for diagnosis.",
        "Obrazy skompresowane, poglądowe – nie do diagnozy.",
    ),
    "viewer_no_full": (
        "The diagnostic viewer is not installed on this server.",
        "Przeglądarka diagnostyczna nie jest zainstalowana na tym serwerze.",
    ),
    "viewer_series": ("Series", "Serie"),
    "viewer_studies": ("Studies", "Badania"),
    "viewer_series_of": ("Series {number}", "Seria {number}"),
    "viewer_images": ("images: {count}", "obrazy: {count}"),
    "viewer_previous": ("Previous image", "Poprzedni obraz"),
    "viewer_next": ("Next image", "Następny obraz"),
    "viewer_window": ("Window", "Okno"),
    "viewer_alt": ("Image {image} of {count}, series {series}", "Obraz {image} z {count}, seria {series}"),
    "viewer_stored": ("as stored", "jak zapisano"),
    "viewer_brain": ("brain", "mózg"),
    "viewer_subdural": ("subdural", "podtwardówkowe"),
    "viewer_bone": ("bone", "kość"),
    "viewer_soft": ("soft tissue", "tkanki miękkie"),
    "viewer_lung": ("lung", "płuca"),
    "viewer_mediastinum": ("mediastinum", "śródpiersie"),
    "viewer_liver": ("liver", "wątroba"),
    "viewer_keys": (
        "Arrow keys or the wheel: next and previous; number keys: window.",
        "Strzałki lub kółko myszy: następny i poprzedni; cyfry: okno.",
    ),
    "viewer_failed": (
        "This image cannot be shown. If none can, open the images again: your access may have ended.",
        "Nie można pokazać tego obrazu. Jeśli dotyczy to wszystkich, otwórz obrazy ponownie: dostęp mógł wygasnąć.",
    ),
    "viewer_no_images": ("This study has no images that can be shown here.", "To badanie nie zawiera obrazów, które można tu pokazać."),
    "viewer_others": ("Not shown: {count} objects that are no images.", "Nie pokazano obiektów niebędących obrazami: {count}."),
    "viewer_born": ("born {date}", "ur. {date}"),
}  # fmt: skip
