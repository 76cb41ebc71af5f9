"""Images for people: OHIF where it is installed, a plain page everywhere; opened from an order, a study or a report."""
