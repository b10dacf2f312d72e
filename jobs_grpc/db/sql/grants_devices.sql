GRANT USAGE ON SCHEMA public TO {role}; GRANT SELECT ON public.device_state, public.device_group_members TO {role};
