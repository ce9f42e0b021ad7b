"""Tests. The tiers are folders; each folder's conftest or README says what it does not test."""
