"""What the lazy paper claims and reports, compared with what was measured here."""
