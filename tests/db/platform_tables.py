"""The device tables of a platform that manages them."""

PLATFORM_TABLES = """
    CREATE TABLE device_state (
        tenant_id text, device_id text, PRIMARY KEY (tenant_id, device_id));
    CREATE TABLE device_group_members (
        tenant_id text, group_id text, device_id text,
        PRIMARY KEY (tenant_id, group_id, device_id));
"""
PLATFORM_POLICIES = """
    ALTER TABLE device_state ENABLE ROW LEVEL SECURITY;
    ALTER TABLE device_group_members ENABLE ROW LEVEL SECURITY;
    CREATE POLICY platform ON device_state
        USING (tenant_id = current_setting('app.tenant_id', true));
    CREATE POLICY platform ON device_group_members
        USING (tenant_id = current_setting('app.tenant_id', true));
"""
