-- The day on which a gateway's packets of the day before were looked at: a node that dies among its mails leaves the rest to another
-- one, and nobody is told twice.
ALTER TABLE gateway ADD COLUMN packets_judged_on date;
